//! Two users talk through a gateway: `cargo run --release` in one terminal, `cargo run -p quipu-client --example hello` in another.

use quipu_client::{Client, ClientEvent, Config, Error, Target};

/// Opens a client that keeps everything in memory, with a name that is free.
async fn join(name: &str) -> Result<Client, Error> {
    let server = std::env::var("QUIPU_SERVER").unwrap_or_else(|_| "127.0.0.1:4433".into());
    let client = Client::open(Config {
        server,
        ..Config::default()
    })
    .await?;
    client.register(name, "correct horse battery").await?;
    Ok(client)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let run = std::process::id();
    let (alice_name, bob_name) = (format!("alice-{run}"), format!("bob-{run}"));
    let (alice, bob) = (join(&alice_name).await?, join(&bob_name).await?);
    let mut events = bob.events();

    // The message is in alice's outbox when `send` returns; the ack says that it is durable, ordered and in the history.
    let sent = alice.send(Target::user(&bob_name)?, "hello, bob").await?;
    println!("acked as message {}", alice.wait_acked(sent.id).await?);

    while let Some(event) = events.next().await {
        if let ClientEvent::Message { message, .. } = event {
            let text = message.content.text();
            println!("{}: {text}", message.from);
            bob.mark_read(message.conversation, message.seq).await?;
            break;
        }
    }
    alice.close().await;
    bob.close().await;
    Ok(())
}
