//! `register` and `login`.

use std::io::{self, BufRead};

use anyhow::{Context, bail, ensure};
use quipu_client::Client;
use quipu_protocol::limits::PASSWORD_BYTES_MAX;

use super::Ended;
use crate::cli::{Account, LoginArgs};

/// Makes an account.
pub(super) async fn register(client: &Client, account: &Account) -> anyhow::Result<Ended> {
    let made = client
        .register(account.name.as_str(), &password().await?)
        .await?;
    println!("registered {}", made.user);
    Ok(Ended::Done)
}

/// Uses an account that exists.
pub(super) async fn login(client: &Client, arguments: &LoginArgs) -> anyhow::Result<Ended> {
    let used = match (&arguments.token_file, &arguments.name) {
        (Some(file), _) => client.login_with_token(file).await?,
        (None, Some(name)) => client.login(name.as_str(), &password().await?).await?,
        (None, None) => bail!("say whose account, or give --token-file"),
    };
    println!("logged in as {}", used.user);
    Ok(Ended::Done)
}

/// The first line of standard input.
async fn password() -> anyhow::Result<String> {
    tokio::task::spawn_blocking(|| first_line(io::stdin().lock()))
        .await
        .context("read the password")?
}

fn first_line(input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    // Two more for the line's end, one more to notice that it is too long.
    let most = PASSWORD_BYTES_MAX as u64 + 3;
    input
        .take(most)
        .read_line(&mut line)
        .context("read the password from standard input")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    ensure!(!password.is_empty(), "no password came on standard input");
    ensure!(
        password.len() <= PASSWORD_BYTES_MAX,
        "a password has at most {PASSWORD_BYTES_MAX} bytes"
    );
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line() {
        let read = |bytes: &str| first_line(bytes.as_bytes()).ok();
        assert_eq!(read("correct horse\nmore"), Some("correct horse".into()));
        assert_eq!(read("with spaces \r\n"), Some("with spaces ".into()));
        assert_eq!(read("no line end"), Some("no line end".into()));
        assert_eq!(read("\n"), None);
        assert_eq!(read(&"x".repeat(256)), Some("x".repeat(256)));
        assert_eq!(read(&"x".repeat(257)), None);
    }
}
