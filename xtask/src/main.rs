//! Developer commands of the Quipu workspace: `cargo xtask <command>`.

mod codegen;

fn main() -> anyhow::Result<()> {
    codegen::generate()
}
