//! Router, processors and registry over a log and a store in memory: what a command leads to, also across crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_core::record::{Command, CommandKind, NewDevice};
use quipu_core::shard::ShardCount;
use quipu_gateway::log::{Log, MemoryLog};
use quipu_gateway::processor::{Processors, Surroundings};
use quipu_gateway::registry::{Attached, Mailbox, MailboxItem, Registry};
use quipu_gateway::router::Router;
use quipu_gateway::store::{HistoryRange, MemoryStore, Store};
use quipu_protocol::event::{Content, Outcome, Reply};
use quipu_protocol::id::{
    ClientSeq, ConversationId, Cursor, DeviceId, MessageId, RequestId, UserId,
};

const SHARDS: ShardCount = ShardCount(8);

/// One life of a gateway without its edge.
struct Gateway {
    router: Router,
    registry: Arc<Registry>,
    processors: Processors,
}

impl Gateway {
    fn start(log: &Arc<MemoryLog>, store: &Arc<MemoryStore>) -> Self {
        let registry = Registry::new();
        let surroundings = Surroundings {
            log: log.clone() as Arc<dyn Log>,
            store: store.clone() as Arc<dyn Store>,
            registry: registry.clone(),
            topic: Arc::default(),
        };
        let processors = Processors::start(&surroundings, 2, |error| {
            panic!("a processor stopped: {error}")
        })
        .expect("processors start");
        let (router, _thread) = Router::start(log.clone(), || {}).expect("the router starts");
        Self {
            router,
            registry,
            processors,
        }
    }

    async fn register(&self, name: &str) -> Session {
        let (user, device, request) = (user(name), device(), RequestId(1));
        let answer = self.registry.expect_answer(user, device, request);
        let kind = CommandKind::Register {
            request,
            password: None,
            device: NewDevice {
                label: "test".into(),
                token_hash: [7; 32],
            },
        };
        self.submit(user, kind).await;
        assert_eq!(answer.outcome().await, Some(Outcome::Done));
        self.attach(name)
    }

    fn attach(&self, name: &str) -> Session {
        let mailbox = Mailbox::new();
        Session {
            user: user(name),
            _attached: self.registry.attach(user(name), device(), mailbox.clone()),
            mailbox,
        }
    }

    async fn submit(&self, user: UserId, kind: CommandKind) {
        let command = Command {
            user,
            device: device(),
            kind,
        };
        self.router
            .submit(command)
            .await
            .expect("the router takes commands");
    }

    async fn open(&self, session: &Session, peer: &Session) -> ConversationId {
        let request = RequestId(9);
        let kind = CommandKind::OpenDirect {
            request,
            peer: peer.user,
        };
        self.submit(session.user, kind).await;
        match session.next_reply().await.outcome {
            Outcome::Opened { conversation, .. } => conversation,
            other => panic!("the conversation was not opened: {other:?}"),
        }
    }

    async fn send(&self, session: &Session, conversation: ConversationId, number: u64) {
        let kind = CommandKind::Send {
            conversation,
            client_seq: ClientSeq::new(number).expect("not zero"),
            id: MessageId([number as u8; 16]),
            content: Content::Text(format!("message {number}")),
        };
        self.submit(session.user, kind).await;
    }
}

struct Session {
    user: UserId,
    mailbox: Arc<Mailbox>,
    _attached: Attached,
}

impl Session {
    async fn next_reply(&self) -> Reply {
        loop {
            self.mailbox.ready().await;
            for item in self.mailbox.take().items {
                match item {
                    MailboxItem::Reply(reply) => return reply,
                    MailboxItem::Event(_) | MailboxItem::Notice(_) => {}
                }
            }
        }
    }

    /// Waits until the inbox has come to `last`, and returns the numbers that were pushed.
    async fn events_up_to(&self, last: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.last() != Some(&last) {
            self.mailbox.ready().await;
            for item in self.mailbox.take().items {
                match item {
                    MailboxItem::Event(event) => seen.push(event.inbox_seq.get()),
                    MailboxItem::Reply(reply) => panic!("an unexpected reply: {reply:?}"),
                    MailboxItem::Notice(_) => panic!("there is no group"),
                }
            }
        }
        seen
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

fn device() -> DeviceId {
    DeviceId::new(1).expect("not zero")
}

fn texts(store: &MemoryStore, conversation: &ConversationId) -> Vec<(u64, String)> {
    let rows = store
        .history(conversation, HistoryRange::ALL)
        .expect("history");
    rows.into_iter()
        .map(|row| (row.0.seq.get(), row.0.content.text().to_owned()))
        .collect()
}

#[tokio::test]
async fn a_message_is_in_the_history_and_in_both_inboxes_when_its_event_arrives() {
    let (log, store) = (
        Arc::new(MemoryLog::new(SHARDS)),
        Arc::new(MemoryStore::new()),
    );
    let gateway = Gateway::start(&log, &store);
    let alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    let conversation = gateway.open(&alice, &bob).await;
    for number in 1..=3 {
        gateway.send(&alice, conversation, number).await;
    }
    assert_eq!(alice.events_up_to(3).await, [1, 2, 3]);
    assert_eq!(bob.events_up_to(3).await, [1, 2, 3]);
    let expected: Vec<_> = (1..=3)
        .map(|number| (number, format!("message {number}")))
        .collect();
    assert_eq!(texts(&store, &conversation), expected);
    for session in [&alice, &bob] {
        assert_eq!(
            store
                .inbox(&session.user, Cursor::START, 10)
                .expect("inbox")
                .len(),
            3
        );
    }
}

#[tokio::test]
async fn a_store_that_lost_everything_is_rebuilt_from_the_log_and_numbers_go_on() {
    let (log, store) = (
        Arc::new(MemoryLog::new(SHARDS)),
        Arc::new(MemoryStore::new()),
    );
    let gateway = Gateway::start(&log, &store);
    let alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    let conversation = gateway.open(&alice, &bob).await;
    for number in 1..=20 {
        gateway.send(&alice, conversation, number).await;
    }
    alice.events_up_to(20).await;
    bob.events_up_to(20).await;
    let before = texts(&store, &conversation);
    gateway.processors.stop();

    // A crash that loses all that was committed: the worst that a store may do before its first sync.
    let store = Arc::new(MemoryStore::new());
    let gateway = Gateway::start(&log, &store);
    let (alice, bob) = (gateway.attach("alice"), gateway.attach("bob"));
    gateway.send(&alice, conversation, 20).await;
    let repeated = alice.next_reply().await;
    assert!(
        matches!(repeated.outcome, Outcome::Accepted(seq) if seq.get() == 20),
        "a retry gets its first answer: {repeated:?}"
    );
    gateway.send(&alice, conversation, 21).await;
    assert_eq!(bob.events_up_to(21).await.last(), Some(&21));
    let mut expected = before;
    expected.push((21, "message 21".into()));
    assert_eq!(texts(&store, &conversation), expected);
}

#[tokio::test]
async fn when_the_log_fails_the_router_refuses_and_every_session_is_told() {
    let log = Arc::new(MemoryLog::new(SHARDS));
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    let (router, thread) = Router::start(log.clone(), move || tell.store(true, Ordering::Release))
        .expect("the router starts");
    log.fail("the disk is gone");
    let command = Command {
        user: user("alice"),
        device: device(),
        kind: CommandKind::OpenDirect {
            request: RequestId(1),
            peer: user("bob"),
        },
    };
    router
        .submit(command.clone())
        .await
        .expect("it is queued before the failure is known");
    thread.join().expect("the router's thread ends");
    assert!(told.load(Ordering::Acquire));
    assert!(router.submit(command).await.is_err());
}
