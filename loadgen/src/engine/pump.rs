//! One connected device: carries bytes and orders between its session, its QUIC streams and the run. One small task each.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, SendBlocked};
use quipu_protocol::welcome::Welcome;
use tokio::time::Sleep;

use super::seat::Leave;
use super::{Engine, PutOff, World};
use crate::verify::Ledger;

/// A connected and welcomed device.
pub(super) struct Pump {
    device: usize,
    session: ClientSession,
    s0_send: quinn::SendStream,
    s0_recv: quinn::RecvStream,
    lane: quinn::RecvStream,
    /// Bytes of the session that S0 has not taken yet; bounded, because the session takes few sends that are unanswered.
    unsent: VecDeque<Bytes>,
    /// Made when it is needed for the first time: most devices are idle.
    timer: Option<Pin<Box<Sleep>>>,
    /// What `timer` is set to; `None`: it does not matter when it fires.
    timer_at: Option<Instant>,
    world: Rc<World>,
    connection: quinn::Connection,
}

/// Why a device's connection is over.
pub(super) enum End {
    Left(Leave),
    Lost(anyhow::Error),
}

impl Pump {
    /// Connects a device and waits until it is let in and its lane is there.
    pub(super) async fn connect(world: Rc<World>, device: usize) -> anyhow::Result<Self> {
        let began = Instant::now();
        let connection = world.ports.connect(device)?.await.context("connect")?;
        let (mut s0_send, mut s0_recv) = connection.open_bi().await?;
        let resume = world.engine.borrow().resume(device);
        let hello = world.accounts[device].hello(resume);
        let mut session = ClientSession::new(Instant::now(), hello);
        let welcome: Welcome = loop {
            match session.poll_output() {
                Some(ClientOutput::Transmit(bytes)) => s0_send.write_chunk(bytes).await?,
                Some(ClientOutput::Welcomed(welcome)) => break welcome,
                Some(other) => bail!("expected WELCOME, got {other:?}"),
                None => {
                    let chunk = s0_recv.read_chunk(usize::MAX, true).await?;
                    let mut bytes = chunk.context("S0 ended before WELCOME")?.bytes;
                    session.handle_s0(Instant::now(), &mut bytes);
                }
            }
        };
        let lane = connection.accept_uni().await.context("wait for the lane")?;
        let login = began.elapsed();
        world
            .engine
            .borrow_mut()
            .welcomed(device, &welcome, login, &connection);
        world.start_jobs();
        Ok(Self {
            device,
            session,
            s0_send,
            s0_recv,
            lane,
            unsent: VecDeque::new(),
            timer: None,
            timer_at: None,
            world,
            connection,
        })
    }

    /// Works until the connection is over.
    pub(super) async fn work(mut self) {
        let end = match poll_fn(|cx| self.poll(cx)).await {
            Ok(leave) => {
                match leave {
                    Leave::Close | Leave::Rest | Leave::End => {
                        self.connection.close(0_u32.into(), b"bye")
                    }
                    Leave::Vanish => {}
                }
                End::Left(leave)
            }
            Err(error) => End::Lost(error),
        };
        let (world, device) = (self.world.clone(), self.device);
        let path = self.connection.stats().path;
        world
            .engine
            .borrow_mut()
            .transmitted(path.sent_packets, path.lost_packets);
        drop(self);
        super::connect::gone(&world, device, end);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<Leave>> {
        loop {
            let (leave, paused) = self
                .world
                .engine
                .borrow_mut()
                .attend(self.device, cx.waker());
            if let Some(leave) = leave {
                return Poll::Ready(Ok(leave));
            }
            // Each arm is polled until it has to wait, then the others get their turn; what one does may let another go on.
            let lane = match paused {
                true => Poll::Pending,
                false => self.poll_lane(cx)?,
            };
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
        let world = self.world.clone();
        let mut buffer = world.buffer.borrow_mut();
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
        let world = self.world.clone();
        let mut buffer = world.buffer.borrow_mut();
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
        let world = self.world.clone();
        let mut engine = world.engine.borrow_mut();
        let asks = engine.next_ask(self.device);
        let asked = asks.map(|ask| engine.ask(self.device, ask, &mut self.session));
        let has_jobs = asked.is_some();
        let asked = asked.unwrap_or(Ok(()));
        let given = asked.and_then(|()| give(&mut engine, self.device, &mut self.session));
        drop(engine);
        if has_jobs {
            world.start_jobs();
        }
        given.or_else(retry_later)
    }

    /// Gives the run what the session has for it, and keeps bytes for S0.
    fn take_outputs(&mut self) -> anyhow::Result<()> {
        while let Some(output) = self.session.poll_output() {
            match output {
                ClientOutput::Transmit(bytes) => self.unsent.push_back(bytes),
                ClientOutput::Event(event) => {
                    let now = Instant::now();
                    let account = &self.world.accounts[self.device];
                    self.world
                        .engine
                        .borrow_mut()
                        .event(self.device, account, &event, now);
                    self.session.kept(now, event.inbox_seq.cursor());
                    self.world.start_jobs();
                }
                ClientOutput::Reply(reply) => {
                    let put_off = self.world.engine.borrow_mut().reply(self.device, &reply);
                    if let Some(put_off) = put_off {
                        tokio::task::spawn_local(again(self.world.clone(), self.device, put_off));
                    }
                    self.world.start_jobs();
                }
                ClientOutput::Notice(notice) => {
                    let now = Instant::now();
                    let mut engine = self.world.engine.borrow_mut();
                    engine.notice(self.device, &notice, now);
                    drop(engine);
                    self.world.start_jobs();
                }
                ClientOutput::Close { code, reason } => bail!("{code}: {reason}"),
                ClientOutput::GoAway(go_away) => bail!("GOAWAY {}", go_away.code),
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

    /// Ready when the session's time had come, or that of a receipt.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let receipt = self.world.engine.borrow().receipt_at(self.device);
        let times = [self.session.poll_timeout(), receipt];
        let Some(at) = times.into_iter().flatten().min() else {
            self.timer_at = None;
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
        if self.timer_at != Some(at) {
            self.timer_at = Some(at);
            timer.as_mut().reset(at.into());
        }
        ready!(timer.as_mut().poll(cx));
        self.session.handle_timeout(Instant::now().max(at));
        self.timer_at = None;
        Poll::Ready(())
    }
}

/// Hands the session receipts, edits and messages, as long as it takes them.
fn give(
    engine: &mut Engine,
    device: usize,
    session: &mut ClientSession,
) -> Result<(), SendBlocked> {
    while let Some((conversation, positions)) = engine.next_receipt(device) {
        session.receipt(conversation, positions.delivered, positions.read)?;
        engine.receipt_sent(device, conversation, positions);
    }
    while let Some((request, client_seq, change)) = engine.next_edit(device) {
        session.change(request, client_seq, change)?;
        engine.set_asked(device, request, true);
    }
    while let Some(order) = engine.next_order(device) {
        let client_seq = order.client_seq.unwrap_or_else(|| engine.new_client_seq());
        let (conversation, content) = engine.compose(&order);
        let id = Ledger::message_id(&order.label);
        session.send(conversation, client_seq, id, content)?;
        engine.written(device, &order.label, client_seq);
    }
    Ok(())
}

/// Gives a command again when its time has come. At most one task for each message under way, which are bounded.
async fn again(world: Rc<World>, device: usize, put_off: PutOff) {
    tokio::time::sleep(put_off.wait).await;
    world.engine.borrow_mut().again(device, put_off.command);
}

/// An answer or a flush makes room, and both bring us back; anything else is a fault of ours.
fn retry_later(blocked: SendBlocked) -> anyhow::Result<()> {
    match blocked {
        SendBlocked::ConversationFull | SendBlocked::ConnectionFull | SendBlocked::OutputFull => {
            Ok(())
        }
        SendBlocked::NotWelcomed
        | SendBlocked::Closed
        | SendBlocked::InFlight
        | SendBlocked::TextTooLong(_) => bail!("the session takes no order: {blocked}"),
    }
}
