//! A welcomed session in raw frames, for cases that start where the handshake ends.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::wire;

use crate::raw::{Dialer, Peer, Stream};

/// The password of every account that the suite makes.
pub const PASSWORD: &str = "correct horse battery";

/// A device that is connected.
#[derive(Debug)]
pub struct Session {
    /// Its connection.
    pub peer: Peer,
    /// Its S0, behind WELCOME.
    pub s0: Stream,
    /// Its lane, behind LANE.
    pub lane: Stream,
    /// What the gateway said.
    pub welcome: wire::Welcome,
    client_seq: u64,
}

/// Who a device is, to come back with.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user's name.
    pub name: String,
    /// The device's number.
    pub device: u64,
    /// Its token.
    pub token: Bytes,
}

impl Identity {
    /// The HELLO of this device.
    pub fn hello(&self, resume: Option<wire::Resume>) -> wire::Hello {
        let auth = wire::hello::Auth::Session(wire::SessionAuth {
            name: self.name.clone(),
            device: self.device,
            token: self.token.clone(),
        });
        hello(auth, resume)
    }
}

/// A HELLO with these credentials.
pub fn hello(auth: wire::hello::Auth, resume: Option<wire::Resume>) -> wire::Hello {
    wire::Hello {
        agent: "quipu-conformance".to_owned(),
        features: 0,
        auth: Some(auth),
        resume,
    }
}

/// The HELLO that makes an account.
pub fn register(name: &str) -> wire::Hello {
    let register = wire::Register {
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
        device_label: "first".to_owned(),
        invitation: String::new(),
    };
    hello(wire::hello::Auth::Register(register), None)
}

/// The HELLO that adds a device to an account.
pub fn login(name: &str, password: &str) -> wire::Hello {
    let login = wire::Login {
        name: name.to_owned(),
        password: password.to_owned(),
        device_label: "another".to_owned(),
    };
    hello(wire::hello::Auth::Login(login), None)
}

impl Session {
    /// Connects and says `hello`; fails unless a WELCOME and a lane follow.
    pub async fn open(dialer: &Dialer, hello: &wire::Hello) -> anyhow::Result<Self> {
        let peer = dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.send(FrameType::Hello, hello).await?;
        Self::welcomed(peer, s0).await
    }

    /// Takes over where HELLO has been written.
    pub async fn welcomed(peer: Peer, mut s0: Stream) -> anyhow::Result<Self> {
        let welcome: wire::Welcome = s0.expect(FrameType::Welcome).await?;
        let mut lane = peer.accept_lane().await?;
        let first: wire::Lane = lane.expect(FrameType::Lane).await?;
        ensure!(first.index < first.lanes, "LANE {first:?} names no lane");
        Ok(Self {
            peer,
            s0,
            lane,
            welcome,
            client_seq: 0,
        })
    }

    /// What the device needs to come back. `first` is the session that registered or logged in: only its WELCOME has a token.
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.welcome.user.clone(),
            device: self.welcome.device,
            token: self.welcome.token.clone(),
        }
    }

    /// The direct conversation with `peer`.
    pub fn direct(&self, peer: &str) -> anyhow::Result<ConversationId> {
        let me = UserId::new(&self.welcome.user)?;
        Ok(ConversationId::direct(&me, &UserId::new(peer)?))
    }

    /// Opens the direct conversation with `peer`.
    pub async fn open_direct(&mut self, peer: &str) -> anyhow::Result<ConversationId> {
        let open = wire::OpenDirect {
            request: 1,
            peer: peer.to_owned(),
        };
        self.s0.send(FrameType::OpenDirect, &open).await?;
        let reply: wire::Reply = self.s0.expect(FrameType::Reply).await?;
        ensure!(reply.to == Some(wire::reply::To::Request(1)), "{reply:?}");
        let Some(wire::reply::Outcome::Opened(opened)) = reply.outcome else {
            bail!("expected Opened, got {reply:?}");
        };
        let conversation = ConversationId::from_slice(&opened.conversation)?;
        ensure!(conversation == self.direct(peer)?, "not the id of QP-ID-3");
        Ok(conversation)
    }

    /// A SEND with the next client seq and a name made of it.
    pub fn next_send(&mut self, conversation: &ConversationId, text: &str) -> wire::Send {
        send_frame(self.next_client_seq(), conversation, text)
    }

    /// The next client seq of this session.
    pub fn next_client_seq(&mut self) -> u64 {
        self.client_seq += 1;
        self.client_seq
    }

    /// Sends `text` and waits for its ack: the event that carries it. Other events on the way fail the case.
    pub async fn say(
        &mut self,
        conversation: &ConversationId,
        text: &str,
    ) -> anyhow::Result<wire::Message> {
        let send = self.next_send(conversation, text);
        self.s0.send(FrameType::Send, &send).await?;
        let (_, message) = self.message().await?;
        ensure!(
            message.client_seq == send.client_seq && message.from == self.welcome.user,
            "expected the ack of {send:?}, got {message:?}"
        );
        Ok(message)
    }

    /// The next event of the lane.
    pub async fn event(&mut self) -> anyhow::Result<wire::Event> {
        self.lane.expect(FrameType::Event).await
    }

    /// The next event, which must carry a message: its inbox seq and the message.
    pub async fn message(&mut self) -> anyhow::Result<(u64, wire::Message)> {
        let event = self.event().await?;
        match event.body {
            Some(wire::event::Body::Message(message)) => Ok((event.inbox_seq, message)),
            other => bail!("expected a message, got {other:?}"),
        }
    }

    /// The next event, which must carry a receipt: its inbox seq and the receipt.
    pub async fn receipt(&mut self) -> anyhow::Result<(u64, wire::ReceiptEvent)> {
        let event = self.event().await?;
        match event.body {
            Some(wire::event::Body::Receipt(receipt)) => Ok((event.inbox_seq, receipt)),
            other => bail!("expected a receipt, got {other:?}"),
        }
    }

    /// Acks all events up to `cursor`.
    pub async fn ack(&mut self, cursor: u64) -> anyhow::Result<()> {
        self.s0.send(FrameType::Ack, &wire::Ack { cursor }).await
    }

    /// The next REPLY on S0, which must be a rejection; its code.
    pub async fn rejection(&mut self) -> anyhow::Result<u32> {
        let reply: wire::Reply = self.s0.expect(FrameType::Reply).await?;
        match reply.outcome {
            Some(wire::reply::Outcome::Rejected(rejected)) => Ok(rejected.code),
            other => bail!("expected a rejection, got {other:?}"),
        }
    }

    /// Proves that this session still works: a SEND to nowhere is answered.
    pub async fn expect_alive(&mut self) -> anyhow::Result<()> {
        let me = self.welcome.user.clone();
        let nowhere = ConversationId([0x55; 16]);
        let send = self.next_send(&nowhere, "anybody there?");
        self.s0.send(FrameType::Send, &send).await?;
        self.rejection()
            .await
            .with_context(|| format!("the session of {me} should live on"))?;
        Ok(())
    }
}

/// A SEND whose message is named after its number.
pub fn send_frame(client_seq: u64, conversation: &ConversationId, text: &str) -> wire::Send {
    let mut id = [0x11; 16];
    id[8..].copy_from_slice(&client_seq.to_be_bytes());
    wire::Send {
        client_seq,
        conversation: conversation.0.to_vec().into(),
        id: id.to_vec().into(),
        content: Some(wire::Content {
            kind: Some(wire::content::Kind::Text(text.to_owned())),
        }),
    }
}

/// The text of a message.
pub fn text(message: &wire::Message) -> &str {
    match message.content.as_ref().and_then(|c| c.kind.as_ref()) {
        Some(wire::content::Kind::Text(text)) => text,
        Some(wire::content::Kind::Rich(rich)) => &rich.text,
        Some(wire::content::Kind::Note(_) | wire::content::Kind::Gone(_)) | None => "",
    }
}
