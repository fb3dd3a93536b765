//! One simulated device: pumps a `ClientSession` between its QUIC streams and the run.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use quipu_protocol::event::Content;
use quipu_protocol::id::{ClientSeq, RequestId};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, SendBlocked};
use tokio::time::Sleep;

use crate::account::Account;
use crate::mailbox::{Mailbox, Order};
use crate::run::Run;
use crate::transport::Sockets;
use crate::verify::Ledger;

/// What one read takes from a stream at the most.
const READ_BYTES: usize = 16 << 10;

/// A connected and welcomed device.
pub(crate) struct Device {
    number: usize,
    session: ClientSession,
    client_seq: ClientSeq,
    s0_send: quinn::SendStream,
    s0_recv: quinn::RecvStream,
    lane: quinn::RecvStream,
    /// Bytes of the session that S0 has not taken yet; bounded, because the session takes few sends that are unanswered.
    unsent: VecDeque<Bytes>,
    timer: Pin<Box<Sleep>>,
    /// What `timer` is set to; `None`: it does not matter when it fires.
    timer_at: Option<Instant>,
    mailbox: Rc<Mailbox>,
    run: Rc<RefCell<Run>>,
    // Dropping it would close the connection.
    _connection: quinn::Connection,
}

impl Device {
    /// Connects device `number` and waits until it is let in.
    pub(crate) async fn connect(
        sockets: &Sockets,
        number: usize,
        account: &Account,
        run: &Rc<RefCell<Run>>,
    ) -> anyhow::Result<Self> {
        let connection = sockets.connect(number).await.context("connect")?;
        let (mut s0_send, mut s0_recv) = connection.open_bi().await?;
        let mut session = ClientSession::new(Instant::now(), account.hello(None));
        loop {
            match session.poll_output() {
                Some(ClientOutput::Transmit(bytes)) => s0_send.write_chunk(bytes).await?,
                Some(ClientOutput::Welcomed(_)) => break,
                Some(other) => bail!("expected WELCOME, got {other:?}"),
                None => {
                    let chunk = s0_recv.read_chunk(usize::MAX, true).await?;
                    let mut bytes = chunk.context("S0 ended before WELCOME")?.bytes;
                    session.handle_s0(Instant::now(), &mut bytes);
                }
            }
        }
        let lane = connection.accept_uni().await.context("wait for the lane")?;
        let mailbox = run.borrow().mailbox(number);
        Ok(Self {
            number,
            session,
            client_seq: ClientSeq::FIRST,
            s0_send,
            s0_recv,
            lane,
            unsent: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(Instant::now().into())),
            timer_at: None,
            mailbox,
            run: run.clone(),
            _connection: connection,
        })
    }

    /// Works until the connection is lost.
    pub(crate) async fn work(mut self) {
        let Err(error) = poll_fn(|cx| self.poll(cx)).await;
        self.run.borrow_mut().failed(self.number, &error);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<std::convert::Infallible>> {
        self.mailbox.register(cx.waker());
        loop {
            // Each arm is polled until it has to wait, then the others get their turn; what one does may let another go on.
            let lane = self.poll_lane(cx)?;
            let s0 = self.poll_s0(cx)?;
            self.take_orders()?;
            // Pending: the stream wakes us when it takes more.
            let _ = self.poll_outputs(cx)?;
            let timer = self.poll_timer(cx);
            if lane.is_pending() && s0.is_pending() && timer.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_lane(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let mut buffer = [0; READ_BYTES];
        let read = ready!(self.lane.poll_read(cx, &mut buffer))?;
        let mut bytes = &buffer[..read];
        if bytes.is_empty() {
            return Poll::Ready(Err(anyhow::anyhow!("the gateway finished the lane")));
        }
        let lane = LaneId(self.lane.id().index());
        let now = Instant::now();
        while !bytes.is_empty() {
            self.session.handle_lane(now, lane, &mut bytes);
            self.take_outputs()?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_s0(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        let mut buffer = [0; READ_BYTES];
        let read = ready!(self.s0_recv.poll_read(cx, &mut buffer))?;
        let mut bytes = &buffer[..read];
        if bytes.is_empty() {
            return Poll::Ready(Err(anyhow::anyhow!("the gateway finished S0")));
        }
        let now = Instant::now();
        while !bytes.is_empty() {
            self.session.handle_s0(now, &mut bytes);
            self.take_outputs()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Hands the session what the run wants, as long as it takes it.
    fn take_orders(&mut self) -> anyhow::Result<()> {
        while let Some(order) = self.mailbox.first() {
            let taken = match order {
                Order::OpenDirect(peer) => self.session.open_direct(RequestId(0), &peer),
                Order::Send(label, due) => {
                    let (conversation, text) = self.run.borrow().compose(&label);
                    let id = Ledger::message_id(&label);
                    let content = Content::Text(text);
                    let taken = self
                        .session
                        .send(conversation, self.client_seq, id, content);
                    if taken.is_ok() {
                        self.client_seq = self.client_seq.next();
                        self.run.borrow_mut().written(due.elapsed());
                    }
                    taken
                }
            };
            match taken {
                Ok(()) => self.mailbox.pop(),
                // An answer or a flush makes room; both bring us back here.
                Err(
                    SendBlocked::ConversationFull
                    | SendBlocked::ConnectionFull
                    | SendBlocked::OutputFull,
                ) => break,
                Err(blocked) => bail!("the session takes no order: {blocked}"),
            }
        }
        Ok(())
    }

    /// Gives the run what the session has for it, and keeps bytes for S0.
    fn take_outputs(&mut self) -> anyhow::Result<()> {
        while let Some(output) = self.session.poll_output() {
            match output {
                ClientOutput::Transmit(bytes) => self.unsent.push_back(bytes),
                ClientOutput::Event(event) => {
                    self.run.borrow_mut().event(self.number, &event);
                    self.session.kept(Instant::now(), event.inbox_seq.cursor());
                }
                ClientOutput::Reply(reply) => {
                    self.run.borrow_mut().reply(self.number, &reply);
                }
                ClientOutput::Close { code, reason } => bail!("{code}: {reason}"),
                ClientOutput::GoAway(go_away) => bail!("GOAWAY: {go_away:?}"),
                ClientOutput::Welcomed(_) => bail!("a second WELCOME"),
            }
        }
        Ok(())
    }

    fn poll_outputs(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        self.take_outputs()?;
        while let Some(bytes) = self.unsent.front_mut() {
            let written = ready!(Pin::new(&mut self.s0_send).poll_write(cx, bytes))?;
            bytes.advance(written);
            if bytes.is_empty() {
                self.unsent.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the session's time had come.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wanted = self.session.poll_timeout();
        if wanted != self.timer_at {
            self.timer_at = wanted;
            if let Some(at) = wanted {
                self.timer.as_mut().reset(at.into());
            }
        }
        let Some(at) = wanted else {
            return Poll::Pending;
        };
        ready!(self.timer.as_mut().poll(cx));
        self.session.handle_timeout(Instant::now().max(at));
        self.timer_at = None;
        Poll::Ready(())
    }
}
