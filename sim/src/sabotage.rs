//! Faults that no gateway may have, put in on purpose: a checker that never condemns proves nothing.

use clap::ValueEnum;

/// One promise broken in the simulator's shell; no production code knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Sabotage {
    /// A conversation forgets which client seqs it has accepted: a retry becomes a new message.
    ForgetDedup,
    /// A conversation forgets which messages it has refused: a late copy of one is accepted after all.
    ForgetRefused,
    /// A shard forgets what it has from the others: a repeated delivery is numbered again.
    ForgetMarks,
    /// A turn commits before what it sends to other shards is durable.
    CommitBeforeAppend,
    /// A turn tells devices before it commits.
    PushBeforeCommit,
    /// The log loses its newest records although their appends were answered.
    LoseAcked,
    /// The log forgets records that the store has only in memory.
    TrimEarly,
    /// A stale owner's commit is not refused.
    NoFence,
    /// A stale owner applies records to rows that another owner has taken further, and sends what comes of it.
    LoadAhead,
    /// A gateway lets devices in before it has replayed its log.
    AdmitEarly,
    /// A client stores its cursor before the events that the cursor stands for.
    CursorBeforeEvents,
    /// A client does not sync which client seqs it has used.
    ReuseClientSeq,
    /// A client does not sync what was answered before it sends on.
    NeverSync,
    /// Pushes go to the user that follows in the alphabet too.
    Misdeliver,
    /// A client forgets the changes in its outbox when its process ends.
    LoseChanges,
    /// A client forgets that it told of a refusal when it loses power.
    ForgetRefusals,
    /// Who leaves a group stays in the roster that its news is spread by.
    KeepInRoster,
    /// News of a group does not reach one of its shards, now and then.
    SkipSpread,
    /// A shard is not told which change of its device one is: a late copy of it is a new change.
    ForgetChanges,
    /// A deletion does not reach the history.
    KeepDeleted,
    /// An edit that comes late says what the history says, whether or not it has come there.
    StaleWords,
    /// A message that comes late counts the changes that are still to come as known.
    CountAhead,
    /// The token of a revoked device is still good.
    AdmitRevoked,
    /// A block does not reach the conversation.
    IgnoreBlock,
    /// Nothing takes messages away whose time is over.
    NeverExpire,
    /// A client numbers its requests from 0 on each connection.
    ReuseRequests,
    /// Who is let in is not checked against who has joined: anybody reads the history of a group.
    OpenHistory,
    /// Lists and histories are read without a look at what the reader was told.
    ReadBehind,
    /// Who asks for the head of a pulled group is not told what the user's own shard has told others of, nor held back until the
    /// history shows it.
    IgnoreNews,
    /// Who asks what was changed in a pulled group is not told of every second change.
    LoseChange,
    /// A client believes that all that it has of a pulled group is as the gateway has it now.
    ForgetMark,
    /// Shards are told to keep half of what the settings say.
    KeepLess,
    /// What a shard is told to keep does not reach its row.
    ForgetKeep,
    /// A cursor is taken as it comes: of another life, ahead of the inbox, below what is kept.
    TrustCursors,
    /// A client that is told to begin anew takes the list and reads no history.
    HalfResync,
    /// What a user decides about others does not reach those who watch.
    IgnorePrivacy,
    /// Who leaves is gone at once.
    NoGrace,
    /// Nobody who watches hears that somebody has come back.
    MissReturns,
}
