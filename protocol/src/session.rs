//! What client and server sessions share. (Machines: `session/server.rs`, `session/client.rs`.)
