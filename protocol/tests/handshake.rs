//! The shortest session: HELLO, WELCOME, one message, its event, the ack.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use quipu_protocol::credentials::{Credentials, Hello};
use quipu_protocol::event::{Content, DeviceCommand, Event, EventBody, Message};
use quipu_protocol::frame::{FrameType, encode};
use quipu_protocol::id::{
    ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, Seq, TimestampMs, UserId,
};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, ServerOutput, ServerSession};
use quipu_protocol::welcome::{Limits, Welcome};
use quipu_protocol::wire;

#[test]
fn a_message_is_answered_by_its_own_event() {
    let now = Instant::now();
    let ana = UserId::new("ana").expect("a name");
    let conversation = ConversationId::direct(&ana, &UserId::new("ben").expect("a name"));
    let hello = Hello {
        agent: "test".into(),
        credentials: Credentials::Login {
            name: ana,
            password: "a good password".into(),
            label: String::new(),
        },
        resume: None,
    };
    let mut client = ClientSession::new(now, hello.clone());
    let mut server = ServerSession::new(now);

    up(&mut client, &mut server, now);
    assert_eq!(
        server.poll_output(),
        Some(ServerOutput::Authenticate(hello))
    );
    let welcome = Welcome {
        user: ana,
        device: DeviceId::new(7).expect("not 0"),
        token: Some([1; 32]),
        resumed: false,
        cursor: Cursor::START,
        life: 1,
        server_time: TimestampMs(0),
        agent: "test".into(),
        limits: Limits::default(),
        gateway: String::new(),
        next_gateways: Vec::new(),
    };
    server.welcome(welcome.clone());
    let Some(ServerOutput::Transmit(bytes)) = server.poll_output() else {
        panic!("WELCOME is sent");
    };
    client.handle_s0(now, &mut bytes.clone());
    assert_eq!(
        client.poll_output(),
        Some(ClientOutput::Welcomed(welcome.clone()))
    );

    let (client_seq, id) = (ClientSeq::FIRST, MessageId([2; 16]));
    let content = Content::Text("hello".into());
    client
        .send(conversation, client_seq, id, content.clone())
        .expect("there is room");
    up(&mut client, &mut server, now);
    let Some(ServerOutput::Command(DeviceCommand::Send { content, .. })) = server.poll_output()
    else {
        panic!("the command comes out");
    };

    let event = Event {
        inbox_seq: InboxSeq::FIRST,
        body: EventBody::Message(Message {
            conversation,
            seq: Seq::FIRST,
            id,
            from: ana,
            from_device: welcome.device,
            client_seq,
            to: None,
            sent_at: TimestampMs(1),
            content,
        }),
    };
    let mut lane = BytesMut::new();
    encode(
        FrameType::Lane,
        &wire::Lane { index: 0, lanes: 1 },
        &mut lane,
    );
    encode(FrameType::Event, &wire::Event::from(&event), &mut lane);
    client.handle_lane(now, LaneId(3), &mut lane.freeze());
    assert_eq!(client.poll_output(), Some(ClientOutput::Event(event)));
    assert_eq!(client.in_flight(), 0);

    client.kept(now + Duration::from_millis(1), Cursor(1));
    up(&mut client, &mut server, now);
    assert_eq!(server.poll_output(), Some(ServerOutput::Acked(Cursor(1))));
    assert_eq!((client.poll_output(), server.poll_output()), (None, None));
}

fn up(client: &mut ClientSession, server: &mut ServerSession, now: Instant) {
    let Some(ClientOutput::Transmit(bytes)) = client.poll_output() else {
        panic!("the client transmits");
    };
    server.handle_bytes(now, &mut bytes.clone());
}
