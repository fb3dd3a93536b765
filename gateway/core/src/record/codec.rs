//! The bytes of a record's entries.

use bytes::Bytes;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Change, EventBody, Invitation, Outcome, Rejection, Reply, ReplyTo, Role,
};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId,
};
use quipu_protocol::wire;

use super::fact::{read_fact, write_fact};
use super::{
    Command, CommandKind, Entry, EntryBody, NewDevice, Position, STATE_MACHINE_VERSION, Source,
    Standing,
};
use crate::codec::event::{read_content, read_event, write_content, write_event};
use crate::codec::{Field, Fields, Writer, corrupt, required};
use crate::retention::Retention;
use crate::row::CorruptRow;
use crate::shard::ShardId;

const WHAT: &str = "record";

/// What an entry takes without its text: a first guess that saves growing the buffer.
const ENTRY_BYTES: usize = 192;

pub(super) fn encode_entries(entries: &[Entry]) -> Bytes {
    let mut out = Writer::with_capacity(entries.len() * ENTRY_BYTES + 16);
    out.uint(1, u64::from(STATE_MACHINE_VERSION));
    for entry in entries {
        out.nested(2, |out| write_entry(out, entry));
    }
    out.into_bytes()
}

pub(super) fn decode_entries(payload: &[u8]) -> Result<Vec<Entry>, CorruptRow> {
    let mut fields = Fields::new(WHAT, payload);
    let mut version = 0;
    let mut entries = Vec::new();
    while let Some(field) = fields.next()? {
        match field.number {
            1 => version = check_version(field.narrow()?)?,
            // Entries of a version that is not known yet are not to be guessed at.
            2 if version == 0 => break,
            2 => entries.push(read_entry(field.nested()?)?),
            _ => {}
        }
    }
    if version == 0 {
        return Err(corrupt(WHAT, "it does not begin with its version"));
    }
    Ok(entries)
}

fn check_version(version: u32) -> Result<u32, CorruptRow> {
    if version > STATE_MACHINE_VERSION {
        return Err(corrupt(
            WHAT,
            format_args!(
                "it needs state machine version {version} and this gateway knows {STATE_MACHINE_VERSION}: start the newer gateway"
            ),
        ));
    }
    Ok(version)
}

fn write_entry(out: &mut Writer, entry: &Entry) {
    if let Some(source) = &entry.source {
        out.nested(1, |out| write_source(out, source));
    }
    match &entry.body {
        EntryBody::Command(command) => out.nested(2, |out| write_command(out, command)),
        EntryBody::Deliver { to, event } => out.nested(3, |out| write_deliver(out, to, event)),
        EntryBody::Answer {
            user,
            device,
            reply,
        } => out.nested(4, |out| write_answer(out, user, *device, reply)),
        EntryBody::Spread {
            group,
            pulled,
            changes,
            event,
        } => out.nested(5, |out| {
            out.conversation(1, group);
            out.uint(2, u64::from(*pulled));
            write_event(out, event, SPREAD);
            out.uint(6, changes.0);
        }),
        EntryBody::Standing {
            conversation,
            user,
            standing,
        } => out.nested(6, |out| write_standing(out, conversation, user, standing)),
        EntryBody::Blocked {
            by,
            user,
            on,
            asked,
        } => out.nested(7, |out| {
            out.user(1, by);
            out.user(2, user);
            out.uint(3, u64::from(*on));
            if let Some((device, request)) = asked {
                out.nested(4, |out| {
                    out.fixed64(1, device.get());
                    out.uint(2, request.0);
                });
            }
        }),
        EntryBody::Expire { conversation, seqs } => out.nested(8, |out| {
            out.conversation(1, conversation);
            out.nested(2, |out| seqs.iter().for_each(|seq| out.varint(seq.get())));
        }),
        EntryBody::Keep(keep) => out.nested(9, |out| write_retention(out, keep)),
        EntryBody::Fact { user, fact } => out.nested(12, |out| {
            out.user(1, user);
            write_fact(out, fact);
        }),
    }
}

/// Numbers of the events of a delivery, and of a spread, which carries no invitation.
const DELIVER: [u32; 4] = [2, 3, 4, 5];
const SPREAD: [u32; 4] = [3, 4, 5, 0];

fn read_entry(mut fields: Fields) -> Result<Entry, CorruptRow> {
    let (mut source, mut body) = (None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => source = Some(read_source(field.nested()?)?),
            2 => body = Some(EntryBody::Command(read_command(field.nested()?)?)),
            3 => body = Some(read_deliver(field.nested()?)?),
            4 => body = Some(read_answer(field.nested()?)?),
            5 => body = Some(read_spread(field.nested()?)?),
            6 => body = Some(read_standing(field.nested()?)?),
            7 => body = Some(read_blocked(field.nested()?)?),
            8 => body = Some(read_expire(field.nested()?)?),
            9 => body = Some(EntryBody::Keep(read_retention(field.nested()?)?)),
            12 => body = Some(read_user_fact(field.nested()?)?),
            _ => {}
        }
    }
    Ok(Entry {
        source,
        body: required(WHAT, "the body of an entry", body)?,
    })
}

pub(crate) fn write_source(out: &mut Writer, source: &Source) {
    out.uint(1, u64::from(source.shard.0));
    out.uint(2, source.position.0);
    out.uint(3, u64::from(source.index));
}

pub(crate) fn read_source(mut fields: Fields) -> Result<Source, CorruptRow> {
    let mut source = Source {
        shard: ShardId(0),
        position: Position::START,
        index: 0,
    };
    while let Some(field) = fields.next()? {
        match field.number {
            1 => source.shard = ShardId(field.narrow()?),
            2 => source.position = Position(field.uint()?),
            3 => source.index = field.narrow()?,
            _ => {}
        }
    }
    Ok(source)
}

pub(crate) fn write_retention(out: &mut Writer, keep: &Retention) {
    out.uint(1, keep.events);
    out.uint(2, keep.ms);
}

pub(crate) fn read_retention(mut fields: Fields) -> Result<Retention, CorruptRow> {
    let (mut events, mut ms) = (0, 0);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => events = field.uint()?,
            2 => ms = field.uint()?,
            _ => {}
        }
    }
    Ok(Retention::new(events, ms))
}

fn write_command(out: &mut Writer, command: &Command) {
    out.user(1, &command.user);
    out.fixed64(2, command.device.get());
    match &command.kind {
        CommandKind::Send {
            conversation,
            client_seq,
            id,
            content,
        } => out.nested(3, |out| {
            out.conversation(1, conversation);
            out.uint(2, client_seq.get());
            out.slice(3, id.as_bytes());
            out.nested(4, |out| write_content(out, content));
        }),
        CommandKind::OpenDirect { request, peer } => out.nested(4, |out| {
            out.uint(1, request.0);
            out.user(2, peer);
        }),
        CommandKind::Receipt {
            conversation,
            delivered,
            read,
            quiet,
        } => out.nested(5, |out| {
            out.conversation(1, conversation);
            out.seq(2, *delivered);
            out.seq(3, *read);
            out.uint(4, u64::from(*quiet));
        }),
        CommandKind::Change {
            request,
            client_seq,
            change,
            fan_out_max,
        } => out.nested(8, |out| {
            out.wire(1, &wire::Command::numbered(*request, *client_seq, change));
            out.uint(2, u64::from(*fan_out_max));
        }),
        CommandKind::Register {
            request,
            password,
            device,
        } => out.nested(6, |out| {
            out.uint(1, request.0);
            if let Some(password) = password {
                out.slice_present(2, password.as_bytes());
            }
            out.nested(3, |out| write_new_device(out, device));
        }),
        CommandKind::AddDevice { request, device } => out.nested(7, |out| {
            out.uint(1, request.0);
            out.nested(2, |out| write_new_device(out, device));
        }),
    }
}

fn read_command(mut fields: Fields) -> Result<Command, CorruptRow> {
    let (mut user, mut device, mut kind) = (None, None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2 => device = Some(field.device()?),
            3 => kind = Some(read_send(field.nested()?)?),
            4 => kind = Some(read_open_direct(field.nested()?)?),
            5 => kind = Some(read_receipt_command(field.nested()?)?),
            6 => kind = Some(read_register(field.nested()?)?),
            7 => kind = Some(read_add_device(field.nested()?)?),
            8 => kind = Some(read_change(field.nested()?)?),
            _ => {}
        }
    }
    Ok(Command {
        user: required(WHAT, "the user of a command", user)?,
        device: required(WHAT, "the device of a command", device)?,
        kind: required(WHAT, "the kind of a command", kind)?,
    })
}

fn read_send(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut conversation, mut client_seq, mut id, mut content) = (None, None, None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => client_seq = Some(field.checked(ClientSeq::new(field.uint()?))?),
            3 => id = Some(field.message_id()?),
            4 => content = Some(read_content(WHAT, field.nested()?)?),
            _ => {}
        }
    }
    Ok(CommandKind::Send {
        conversation: required(WHAT, "the conversation of a send", conversation)?,
        client_seq: required(WHAT, "the client seq of a send", client_seq)?,
        id: required(WHAT, "the message id of a send", id)?,
        content: required(WHAT, "the content of a send", content)?,
    })
}

fn read_open_direct(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut request, mut peer) = (RequestId(0), None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => request = RequestId(field.uint()?),
            2 => peer = Some(field.user()?),
            _ => {}
        }
    }
    Ok(CommandKind::OpenDirect {
        request,
        peer: required(WHAT, "the peer of an opening", peer)?,
    })
}

fn read_receipt_command(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut conversation, mut delivered, mut read, mut quiet) = (None, None, None, false);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => delivered = field.seq()?,
            3 => read = field.seq()?,
            4 => quiet = field.uint()? != 0,
            _ => {}
        }
    }
    Ok(CommandKind::Receipt {
        conversation: required(WHAT, "the conversation of a receipt", conversation)?,
        delivered,
        read,
        quiet,
    })
}

/// A change with its numbers.
type Numbered = (RequestId, Option<ClientSeq>, Change);

fn read_change(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut command, mut fan_out_max) = (None, 0);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => command = Some(field.wire::<wire::Command, Numbered>()?),
            2 => fan_out_max = field.narrow()?,
            _ => {}
        }
    }
    let (request, client_seq, change) = required(WHAT, "the command of a change", command)?;
    Ok(CommandKind::Change {
        request,
        client_seq,
        change: Box::new(change),
        fan_out_max,
    })
}

fn read_register(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut request, mut password, mut device) = (RequestId(0), None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => request = RequestId(field.uint()?),
            2 => password = Some(field.text()?.to_owned()),
            3 => device = Some(read_new_device(field.nested()?)?),
            _ => {}
        }
    }
    Ok(CommandKind::Register {
        request,
        password,
        device: required(WHAT, "the device of a registration", device)?,
    })
}

fn read_add_device(mut fields: Fields) -> Result<CommandKind, CorruptRow> {
    let (mut request, mut device) = (RequestId(0), None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => request = RequestId(field.uint()?),
            2 => device = Some(read_new_device(field.nested()?)?),
            _ => {}
        }
    }
    Ok(CommandKind::AddDevice {
        request,
        device: required(WHAT, "the device to add", device)?,
    })
}

fn write_new_device(out: &mut Writer, device: &NewDevice) {
    out.slice(1, device.label.as_bytes());
    out.slice(2, &device.token_hash);
}

fn read_new_device(mut fields: Fields) -> Result<NewDevice, CorruptRow> {
    let (mut label, mut token_hash) = (String::new(), None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => field.text()?.clone_into(&mut label),
            2 => token_hash = Some(field.hash()?),
            _ => {}
        }
    }
    Ok(NewDevice {
        label,
        token_hash: required(WHAT, "the token hash of a device", token_hash)?,
    })
}

fn write_deliver(out: &mut Writer, to: &[UserId], event: &EventBody) {
    for user in to {
        out.user(1, user);
    }
    write_event(out, event, DELIVER);
}

fn read_deliver(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut to, mut event) = (Vec::new(), None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => to.push(field.user()?),
            _ => event = read_event(WHAT, &field, DELIVER)?.or(event),
        }
    }
    Ok(EntryBody::Deliver {
        to,
        event: required(WHAT, "the event of a delivery", event)?,
    })
}

fn read_spread(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut group, mut pulled, mut event) = (None, false, None);
    let mut changes = ChangeNumber::START;
    while let Some(field) = fields.next()? {
        match field.number {
            1 => group = Some(field.conversation()?),
            2 => pulled = field.uint()? != 0,
            6 => changes = ChangeNumber(field.uint()?),
            _ => event = read_event(WHAT, &field, SPREAD)?.or(event),
        }
    }
    Ok(EntryBody::Spread {
        group: required(WHAT, "the group of a spread", group)?,
        pulled,
        changes,
        event: required(WHAT, "the event of a spread", event)?,
    })
}

fn write_standing(
    out: &mut Writer,
    conversation: &ConversationId,
    user: &UserId,
    standing: &Standing,
) {
    out.conversation(1, conversation);
    out.user(2, user);
    match standing {
        Standing::Out => {}
        Standing::Invited(invitation) => {
            out.uint(4, 1);
            out.wire(5, &wire::Invitation::from(&**invitation));
        }
        Standing::In { role, first } => {
            out.uint(3, u64::from(role.to_wire().unsigned_abs()));
            // In most groups and all direct conversations it is the first of all.
            out.seq(6, (*first > Seq::FIRST).then_some(*first));
        }
    }
}

fn read_standing(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut conversation, mut user, mut standing) = (None, None, Standing::Out);
    let mut seen_from = Seq::FIRST;
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => user = Some(field.user()?),
            3 => {
                let role = Role::from_wire(field.narrow()?);
                standing = Standing::In {
                    role: required(WHAT, "a role of this version", role)?,
                    first: Seq::FIRST,
                };
            }
            5 => {
                let invitation = field.wire::<wire::Invitation, Invitation>()?;
                standing = Standing::Invited(Box::new(invitation));
            }
            6 => seen_from = field.seq()?.unwrap_or(Seq::FIRST),
            _ => {}
        }
    }
    if let Standing::In { first, .. } = &mut standing {
        *first = seen_from;
    }
    Ok(EntryBody::Standing {
        conversation: required(WHAT, "the conversation of a standing", conversation)?,
        user: required(WHAT, "the user of a standing", user)?,
        standing,
    })
}

fn read_blocked(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut by, mut user, mut on, mut asked) = (None, None, false, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => by = Some(field.user()?),
            2 => user = Some(field.user()?),
            3 => on = field.uint()? != 0,
            4 => asked = Some(read_asker(field.nested()?)?),
            _ => {}
        }
    }
    Ok(EntryBody::Blocked {
        by: required(WHAT, "who blocks", by)?,
        user: required(WHAT, "who is blocked", user)?,
        on,
        asked,
    })
}

fn read_asker(mut fields: Fields) -> Result<(DeviceId, RequestId), CorruptRow> {
    let (mut device, mut request) = (None, RequestId(0));
    while let Some(field) = fields.next()? {
        match field.number {
            1 => device = Some(field.device()?),
            2 => request = RequestId(field.uint()?),
            _ => {}
        }
    }
    Ok((required(WHAT, "the device that asked", device)?, request))
}

fn read_expire(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut conversation, mut seqs) = (None, Vec::new());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => {
                let mut packed = field.nested()?;
                while let Some(seq) = packed.packed()? {
                    seqs.push(field.checked(Seq::new(seq))?);
                }
            }
            _ => {}
        }
    }
    Ok(EntryBody::Expire {
        conversation: required(WHAT, "the conversation of an expiry", conversation)?,
        seqs,
    })
}

fn read_user_fact(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut user, mut fact) = (None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2..=7 => fact = read_fact(field.number, field.nested()?)?.or(fact),
            _ => {}
        }
    }
    Ok(EntryBody::Fact {
        user: required(WHAT, "the user of a fact", user)?,
        fact: required(WHAT, "a fact that this version knows", fact)?,
    })
}

fn write_answer(out: &mut Writer, user: &UserId, device: DeviceId, reply: &Reply) {
    out.user(1, user);
    out.fixed64(2, device.get());
    match &reply.to {
        ReplyTo::Send {
            conversation,
            client_seq,
        } => out.nested(3, |out| {
            out.conversation(1, conversation);
            out.uint(2, client_seq.get());
        }),
        ReplyTo::Request(request) => out.uint_present(4, request.0),
    }
    match &reply.outcome {
        Outcome::Accepted(seq) => out.uint_present(5, seq.get()),
        Outcome::Opened { conversation, head } => out.nested(6, |out| {
            out.conversation(1, conversation);
            out.seq(2, *head);
        }),
        Outcome::Done => out.nested(7, |_| {}),
        Outcome::Rejected(rejection) => out.nested(8, |out| {
            out.uint(1, u64::from(rejection.code.code()));
            out.slice(2, rejection.reason.as_bytes());
            out.uint(3, rejection.retry_after_ms);
        }),
    }
}

fn read_answer(mut fields: Fields) -> Result<EntryBody, CorruptRow> {
    let (mut user, mut device, mut to, mut outcome) = (None, None, None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => user = Some(field.user()?),
            2 => device = Some(field.device()?),
            3 => to = Some(read_send_ref(field.nested()?)?),
            4 => to = Some(ReplyTo::Request(RequestId(field.uint()?))),
            5..=8 => outcome = Some(read_outcome(field)?),
            _ => {}
        }
    }
    Ok(EntryBody::Answer {
        user: required(WHAT, "the user of an answer", user)?,
        device: required(WHAT, "the device of an answer", device)?,
        reply: Reply {
            to: required(WHAT, "what an answer is for", to)?,
            outcome: required(WHAT, "the outcome of an answer", outcome)?,
        },
    })
}

fn read_send_ref(mut fields: Fields) -> Result<ReplyTo, CorruptRow> {
    let (mut conversation, mut client_seq) = (None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => client_seq = Some(field.checked(ClientSeq::new(field.uint()?))?),
            _ => {}
        }
    }
    Ok(ReplyTo::Send {
        conversation: required(WHAT, "the conversation of an answer", conversation)?,
        client_seq: required(WHAT, "the client seq of an answer", client_seq)?,
    })
}

fn read_outcome(field: Field) -> Result<Outcome, CorruptRow> {
    Ok(match field.number {
        5 => Outcome::Accepted(field.checked(Seq::new(field.uint()?))?),
        6 => read_opened(field.nested()?)?,
        7 => Outcome::Done,
        _ => Outcome::Rejected(read_rejection(field.nested()?)?),
    })
}

fn read_opened(mut fields: Fields) -> Result<Outcome, CorruptRow> {
    let (mut conversation, mut head) = (None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => head = field.seq()?,
            _ => {}
        }
    }
    Ok(Outcome::Opened {
        conversation: required(WHAT, "the conversation of an answer", conversation)?,
        head,
    })
}

fn read_rejection(mut fields: Fields) -> Result<Rejection, CorruptRow> {
    let mut rejection = Rejection {
        code: RejectCode::Internal,
        reason: String::new(),
        retry_after_ms: 0,
    };
    while let Some(field) = fields.next()? {
        match field.number {
            1 => rejection.code = RejectCode::from_code(field.uint()?),
            2 => field.text()?.clone_into(&mut rejection.reason),
            3 => rejection.retry_after_ms = field.uint()?,
            _ => {}
        }
    }
    Ok(rejection)
}
