//! Who connects and with what proof: the HELLO of a device, checked.

use std::fmt;

use bytes::Bytes;

use crate::error::CloseCode;
use crate::id::{Cursor, DeviceId, UserId};
use crate::limits::{
    INVITATION_BYTES_MAX, JWT_BYTES_MAX, LABEL_BYTES_MAX, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN,
    TOKEN_BYTES,
};
use crate::violation::Violation;
use crate::wire;

/// The secret that a device proves itself with on later connections.
pub type Token = [u8; TOKEN_BYTES];

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Client software and version, for the operator's eyes; at most [`LABEL_BYTES_MAX`] bytes.
    pub agent: String,
    /// Who connects, and why that should be believed.
    pub credentials: Credentials,
    /// Where the device stopped; `None`: it has no event yet.
    pub resume: Option<Resume>,
}

/// Who connects, and why that should be believed. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Make an account, and this device as its first.
    Register {
        /// The name to take.
        name: UserId,
        /// [`PASSWORD_BYTES_MIN`] to [`PASSWORD_BYTES_MAX`] bytes.
        password: String,
        /// Shown in device lists; at most [`LABEL_BYTES_MAX`] bytes.
        label: String,
        /// Where the gateway asks for one; at most [`INVITATION_BYTES_MAX`] bytes.
        invitation: String,
    },
    /// Add this device to an account.
    Login {
        /// Whose account.
        name: UserId,
        /// [`PASSWORD_BYTES_MIN`] to [`PASSWORD_BYTES_MAX`] bytes.
        password: String,
        /// Shown in device lists; at most [`LABEL_BYTES_MAX`] bytes.
        label: String,
    },
    /// Whoever a trusted issuer says it is.
    External {
        /// The issuer's word, which names the user.
        jwt: Jwt,
        /// Shown in device lists, of a new device; at most [`LABEL_BYTES_MAX`] bytes.
        label: String,
        /// Which device, with what WELCOME gave it; `None`: a new one.
        device: Option<(DeviceId, Token)>,
    },
    /// A device that is known already.
    Session {
        /// Whose device.
        name: UserId,
        /// Which one.
        device: DeviceId,
        /// What WELCOME gave it.
        token: Token,
    },
}

/// A signed token of an external issuer: 1 to [`JWT_BYTES_MAX`] bytes. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwt(String);

impl Jwt {
    /// Takes the text of a token; `None` if it is empty or too long. Nothing else is checked here.
    pub fn new(text: String) -> Option<Self> {
        (1..=JWT_BYTES_MAX)
            .contains(&text.len())
            .then_some(Self(text))
    }

    /// The text, which is a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt(..)")
    }
}

/// Where a device stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The last event that it has kept.
    pub cursor: Cursor,
    /// The inbox's life that the cursor belongs to.
    pub life: u64,
}

impl Credentials {
    /// The user who connects, or wants to be; `None`: the token of an issuer says it.
    pub const fn name(&self) -> Option<&UserId> {
        match self {
            Self::Register { name, .. } | Self::Login { name, .. } | Self::Session { name, .. } => {
                Some(name)
            }
            Self::External { .. } => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { name, label, .. } => f
                .debug_struct("Register")
                .field("name", name)
                .field("label", label)
                .finish_non_exhaustive(),
            Self::Login { name, label, .. } => f
                .debug_struct("Login")
                .field("name", name)
                .field("label", label)
                .finish_non_exhaustive(),
            Self::External { label, device, .. } => f
                .debug_struct("External")
                .field("label", label)
                .field("device", &device.map(|(device, _)| device))
                .finish_non_exhaustive(),
            Self::Session { name, device, .. } => f
                .debug_struct("Session")
                .field("name", name)
                .field("device", device)
                .finish_non_exhaustive(),
        }
    }
}

/// A field of HELLO outside its range: nobody is let in, and a person must change what they typed.
const fn invalid(what: &'static str) -> Violation {
    Violation::new("QP-HELLO-3", what).with_code(CloseCode::InvalidCredentials)
}

impl TryFrom<wire::Hello> for Hello {
    type Error = Violation;

    fn try_from(hello: wire::Hello) -> Result<Self, Violation> {
        let Some(auth) = hello.auth else {
            return Err(Violation::new(
                "QP-HELLO-2",
                "HELLO says who connects: register, login or session",
            ));
        };
        Ok(Self {
            agent: bounded(
                hello.agent,
                LABEL_BYTES_MAX,
                "an agent has at most 64 bytes",
            )?,
            credentials: auth.try_into()?,
            resume: hello.resume.map(|resume| Resume {
                cursor: Cursor(resume.cursor),
                life: resume.life,
            }),
        })
    }
}

impl TryFrom<wire::hello::Auth> for Credentials {
    type Error = Violation;

    fn try_from(auth: wire::hello::Auth) -> Result<Self, Violation> {
        use wire::hello::Auth;
        match auth {
            Auth::Register(register) => Ok(Self::Register {
                name: user(&register.name)?,
                password: password(register.password)?,
                label: label(register.device_label)?,
                invitation: bounded(
                    register.invitation,
                    INVITATION_BYTES_MAX,
                    "an invitation has at most 128 bytes",
                )?,
            }),
            Auth::Login(login) => Ok(Self::Login {
                name: user(&login.name)?,
                password: password(login.password)?,
                label: label(login.device_label)?,
            }),
            Auth::Session(session) => Ok(Self::Session {
                name: user(&session.name)?,
                device: DeviceId::new(session.device)
                    .map_err(|_| invalid("a device id is not 0"))?,
                token: token(&session.token)?,
            }),
            Auth::External(external) => Ok(Self::External {
                jwt: Jwt::new(external.jwt)
                    .ok_or_else(|| invalid("an issuer's token has 1 to 4096 bytes"))?,
                label: label(external.device_label)?,
                device: match (DeviceId::new(external.device), external.token.is_empty()) {
                    (Ok(device), false) => Some((device, token(&external.token)?)),
                    (Err(_), true) => None,
                    (Ok(_), true) | (Err(_), false) => {
                        return Err(invalid("a device comes with its token, a new one without"));
                    }
                },
            }),
        }
    }
}

fn token(token: &[u8]) -> Result<Token, Violation> {
    token
        .try_into()
        .map_err(|_| invalid("a token has 32 bytes"))
}

fn user(name: &str) -> Result<UserId, Violation> {
    UserId::new(name).map_err(|_| {
        invalid("a user name has 2 to 31 characters of a-z, 0-9, '.', '_' or '-' and starts with a letter or digit")
    })
}

fn password(password: String) -> Result<String, Violation> {
    if (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
        Ok(password)
    } else {
        Err(invalid("a password has 8 to 256 bytes"))
    }
}

fn label(label: String) -> Result<String, Violation> {
    bounded(
        label,
        LABEL_BYTES_MAX,
        "a device label has at most 64 bytes",
    )
}

fn bounded(text: String, bytes_max: usize, what: &'static str) -> Result<String, Violation> {
    if text.len() <= bytes_max {
        Ok(text)
    } else {
        Err(invalid(what))
    }
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            agent: hello.agent,
            features: 0,
            auth: Some(hello.credentials.into()),
            resume: hello.resume.map(|resume| wire::Resume {
                cursor: resume.cursor.0,
                life: resume.life,
            }),
        }
    }
}

impl From<Credentials> for wire::hello::Auth {
    fn from(credentials: Credentials) -> Self {
        match credentials {
            Credentials::Register {
                name,
                password,
                label,
                invitation,
            } => Self::Register(wire::Register {
                name: name.to_string(),
                password,
                device_label: label,
                invitation,
            }),
            Credentials::Login {
                name,
                password,
                label,
            } => Self::Login(wire::Login {
                name: name.to_string(),
                password,
                device_label: label,
            }),
            Credentials::External { jwt, label, device } => Self::External(wire::External {
                jwt: jwt.0,
                device_label: label,
                device: device.map_or(0, |(device, _)| device.get()),
                token: device.map_or_else(Bytes::new, |(_, token)| Bytes::copy_from_slice(&token)),
            }),
            Credentials::Session {
                name,
                device,
                token,
            } => Self::Session(wire::SessionAuth {
                name: name.to_string(),
                device: device.get(),
                token: Bytes::copy_from_slice(&token),
            }),
        }
    }
}
