//! What every store must do, as functions of a fresh store (and, for one that survives it, of how to open it again).
