//! The accounts of a run: made in bulk by the gateway's own `provision` command, read from the file it writes.

use anyhow::{Context as _, ensure};
use quipu_protocol::credentials::{Credentials, Hello, Resume, Token};
use quipu_protocol::id::{DeviceId, UserId};

/// One device that may log in by its token.
#[derive(Clone)]
pub(crate) struct Account {
    /// Whose device.
    pub(crate) name: UserId,
    device: DeviceId,
    token: Token,
}

impl Account {
    /// Reads a file of `name,device,token` lines; device and token are hexadecimal.
    pub(crate) fn read_all(text: &str) -> anyhow::Result<Vec<Self>> {
        text.lines()
            .zip(1..)
            .map(|(line, number)| {
                Self::read(line).with_context(|| format!("line {number} of the tokens file"))
            })
            .collect()
    }

    fn read(line: &str) -> anyhow::Result<Self> {
        let mut fields = line.trim().split(',');
        let mut field = |what| fields.next().with_context(|| format!("no {what}"));
        let name = UserId::new(field("name")?)?;
        let device = DeviceId::new(u64::from_str_radix(field("device")?, 16)?)?;
        let digits = field("token")?;
        let mut token = [0; 32];
        ensure!(
            digits.len() == 2 * token.len() && digits.is_ascii(),
            "a token has 64 hexadecimal digits"
        );
        for (at, byte) in token.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16)?;
        }
        Ok(Self {
            name,
            device,
            token,
        })
    }

    /// The device's number, which is also on its messages.
    pub(crate) fn device(&self) -> DeviceId {
        self.device
    }

    /// The HELLO of this device, which stopped there; `None`: with an empty inbox.
    pub(crate) fn hello(&self, resume: Option<Resume>) -> Hello {
        Hello {
            agent: concat!("quipu-loadgen/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: Credentials::Session {
                name: self.name,
                device: self.device,
                token: self.token,
            },
            resume,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_gateway_writes() {
        let line = format!("load-7,00000000000000ff,{}\n", "0a".repeat(32));
        let accounts = Account::read_all(&line).unwrap();
        assert_eq!(accounts[0].name.as_str(), "load-7");
        assert_eq!(accounts[0].device.get(), 255);
        assert_eq!(accounts[0].token, [10; 32]);
        for wrong in [
            "load-7",
            "load-7,ff",
            "load-7,ff,0a0a",
            "load-7,0,",
            "LOAD,ff,00",
        ] {
            assert!(Account::read_all(wrong).is_err(), "{wrong}");
        }
    }
}
