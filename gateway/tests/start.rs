//! A whole gateway in this process: it starts, says where it is, refuses what it must, and comes back on its folder.

mod bucket;

use quipu_gateway::config::{AdminListen, Config, SecretText};
use quipu_gateway::{Gateway, StartError};

use crate::bucket::Bucket;

fn config(folder: &std::path::Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        data: folder.into(),
        admin: quipu_gateway::config::Admin {
            listen: AdminListen::Off,
        },
        ..Config::default()
    }
}

#[tokio::test]
async fn it_starts_again_on_its_folder_with_the_same_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start(&config(folder.path()))
        .await
        .expect("it starts");
    assert_ne!(gateway.address().port(), 0);
    assert_eq!(gateway.registration(), "open");
    let fingerprint = gateway.fingerprint();
    gateway.shutdown().await.expect("it stops");

    let again = Gateway::start(&config(folder.path()))
        .await
        .expect("it starts again");
    assert_eq!(again.fingerprint(), fingerprint);
    again.shutdown().await.expect("it stops");
}

#[tokio::test]
async fn a_folder_in_use_and_an_address_in_use_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Gateway::start(&config(folder.path()))
        .await
        .expect("it starts");
    let same_folder = Gateway::start(&config(folder.path())).await;
    assert!(matches!(same_folder.err(), Some(StartError::Folder(_))));

    let other = tempfile::tempdir().expect("a folder");
    let mut taken = config(other.path());
    taken.listen = gateway.address();
    let same_address = Gateway::start(&taken)
        .await
        .err()
        .expect("the address is taken");
    assert!(
        same_address.to_string().contains("in use"),
        "{same_address}"
    );
    gateway.shutdown().await.expect("it stops");
}

#[tokio::test]
async fn a_bucket_that_refuses_the_gateway_is_named_and_one_that_is_silent_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let mut config = config(folder.path());
    config.media = bucket.settings();
    config.media.secret_key = SecretText("another".to_owned());
    let refused = Gateway::start(&config).await.err().expect("a wrong key");
    let text = refused.to_string();
    assert!(text.contains("media.secret_key"), "{text}");

    config.media = bucket.settings();
    bucket.down_after(0);
    let gateway = Gateway::start(&config).await.expect("text needs no bucket");
    gateway.shutdown().await.expect("it stops");
    assert_eq!(bucket.objects(), 0);
    bucket.up();
    let gateway = Gateway::start(&config).await.expect("it starts");
    gateway.shutdown().await.expect("it stops");
    assert_eq!(bucket.objects(), 1, "what the check writes");
}
