//! Files: some messages bring one, and one receiver of each fetches it and checks every byte. And the tasks beside the devices' own.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quipu_protocol::event::{Attachment, Message};
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::{Download, MediaHash, MediaType, Upload, UploadId};

use super::seat::{Line, Order};
use super::{Engine, World, opening, pull, request, transfer};
use crate::payload::Tag;
use crate::seed::{Purpose, Seed};

/// Files of a process on their way at once.
pub(super) const TRANSFERS_AT_ONCE: usize = 32;
/// Files that wait for their turn, at the most; what is due above it is shed and counted.
const WAITING_MAX: u64 = 4_096;
/// Files of a process in one run; messages after them bring none.
const FILES_MAX: usize = 1_000_000;
/// How often a transfer is tried.
const TRIES: u32 = 8;
/// Before it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a task of its own does for a device.
#[derive(Debug)]
pub(super) enum Job {
    /// Looks what its group has become.
    Describe(usize),
    /// Reads its pulled group.
    Pull(usize),
    /// Brings a file, then sends the message that names it.
    Upload(Outgoing),
    /// Fetches a file.
    Download(Incoming),
}

/// A message that brings a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing {
    conversation: usize,
    side: u8,
    due: Instant,
    phase: u16,
    /// Counts the files of the process.
    number: u64,
}

/// A file to fetch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    device: usize,
    conversation: ConversationId,
    hash: MediaHash,
    size: u64,
}

/// A file that was brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    hash: MediaHash,
    size: u64,
}

impl File {
    /// As a message names it.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            hash: self.hash.0,
            size: self.size,
            media_type: MediaType::UNKNOWN.to_owned(),
            name: "load.bin".to_owned(),
            width: 0,
            height: 0,
            duration_ms: 0,
            thumbnail: bytes::Bytes::new(),
        }
    }

    /// What the text of its message says of it.
    pub(super) fn tag(&self) -> Tag {
        let mut head = [0; 8];
        head.copy_from_slice(&self.hash.0[..8]);
        Tag::File(head)
    }
}

/// The bytes of file `number`: a function of the run, and different for every file.
fn content(seed: Seed, run: u64, number: u64, bytes: u64) -> Vec<u8> {
    let first = seed.bits(Purpose::Media, run, 2 * number + 1);
    let words = bytes.div_ceil(8);
    let word = |index| {
        first
            .wrapping_add(index)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let mut content: Vec<u8> = (1..=words).flat_map(|at| word(at).to_be_bytes()).collect();
    content.truncate(bytes as usize);
    content
}

impl Engine {
    /// Whether the message that is due now brings a file; if so, it is sent when the file is there.
    pub(super) fn brings_file(&mut self, conversation: usize, side: u8, due: Instant) -> bool {
        if self.extras.media <= 0.0 || self.ledger.is_pulled(conversation) {
            return false;
        }
        let number = self.media_number;
        self.media_number += 1;
        let device = self.places.device(conversation, usize::from(side));
        if self
            .seed
            .unit(Purpose::Media, self.ledger.run().number, 2 * number)
            >= self.extras.media
            || self.seats[device].line != Line::Online
            || self.files.len() >= FILES_MAX
        {
            return false;
        }
        self.waiting += 1;
        self.transfers_waiting += 1;
        self.jobs.push(Job::Upload(Outgoing {
            conversation,
            side,
            due,
            phase: self.phase as u16,
            number,
        }));
        true
    }

    /// Whether so many files wait that no further message may bring one.
    pub(super) fn is_full_of_files(&self) -> bool {
        self.transfers_waiting >= WAITING_MAX
    }

    /// The file is there, or (`None`) could not be brought: the message goes in any case.
    fn brought(&mut self, outgoing: &Outgoing, file: Option<File>) {
        self.waiting -= 1;
        self.transfers_waiting -= 1;
        let Outgoing {
            conversation,
            side,
            due,
            phase,
            ..
        } = *outgoing;
        let file = file.map(|file| {
            self.totals.uploads += 1;
            self.totals.uploaded_bytes += file.size;
            self.files.push(file);
            (self.files.len() - 1) as u32
        });
        let order = self.order(conversation, side, due, phase);
        let device = self.places.device(conversation, usize::from(side));
        // Its file took its time, which is not the generator's lateness.
        self.seats[device].repeat(Order { file, ..order });
    }

    /// A member was shown a message. One of the receivers fetches its file.
    pub(super) fn maybe_fetch(&mut self, device: usize, place: (usize, usize), message: &Message) {
        let [file] = message.content.attachments() else {
            return;
        };
        let Some(label) = crate::payload::Label::read(message.content.text()) else {
            return;
        };
        let next = (usize::from(label.side) + 1) % self.places.get(place.0).size;
        if place.1 != next {
            return;
        }
        self.downloads_under_way += 1;
        self.jobs.push(Job::Download(Incoming {
            device,
            conversation: message.conversation,
            hash: MediaHash(file.hash),
            size: file.size,
        }));
    }

    fn fetched(&mut self, incoming: &Incoming, outcome: anyhow::Result<bool>) {
        self.downloads_under_way -= 1;
        match outcome {
            Ok(true) => {
                self.totals.downloads += 1;
                self.totals.downloaded_bytes += incoming.size;
            }
            Ok(false) => self.ledger.file_corrupted(),
            Err(error) => {
                self.failed(incoming.device, "download", &error);
                self.ledger.file_lost();
            }
        }
    }
}

impl World {
    /// Starts the tasks that devices have asked for since the last time.
    pub(super) fn start_jobs(self: &Rc<Self>) {
        let jobs = std::mem::take(&mut self.engine.borrow_mut().jobs);
        for job in jobs {
            let world = self.clone();
            match job {
                Job::Describe(device) => {
                    tokio::task::spawn_local(opening::describe(world, device));
                }
                Job::Pull(device) => {
                    tokio::task::spawn_local(pull::pull(world, device));
                }
                Job::Upload(outgoing) => {
                    tokio::task::spawn_local(upload(world, outgoing));
                }
                Job::Download(incoming) => {
                    tokio::task::spawn_local(download(world, incoming));
                }
            }
        }
    }
}

async fn upload(world: Rc<World>, outgoing: Outgoing) {
    let (upload, bytes) = world.engine.borrow().prepare(&outgoing);
    let device = {
        let engine = world.engine.borrow();
        let member = usize::from(outgoing.side);
        engine.places.device(outgoing.conversation, member)
    };
    // Never closed.
    let turn = world.transfers.acquire().await;
    let mut outcome = Err(anyhow::anyhow!("its sender had no connection"));
    for _ in 0..TRIES {
        let connection = world.engine.borrow().connection(device);
        if let Some(connection) = connection {
            outcome = transfer::upload(&connection, &upload, &bytes).await;
        }
        match &outcome {
            Ok(()) => break,
            Err(error) => match request::again_after(error, AGAIN) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break,
            },
        }
    }
    drop(turn);
    let mut engine = world.engine.borrow_mut();
    if engine.is_over() {
        return;
    }
    let file = match outcome {
        Ok(()) => Some(File {
            hash: upload.hash,
            size: upload.size,
        }),
        Err(error) => {
            if error.downcast_ref::<request::Refused>().is_some() {
                engine.ledger.rejected();
            }
            engine.failed(device, "upload", &error);
            None
        }
    };
    engine.brought(&outgoing, file);
}

impl Engine {
    fn prepare(&self, outgoing: &Outgoing) -> (Upload, Vec<u8>) {
        let run = self.ledger.run().number;
        let (from, to) = self.extras.media_bytes;
        let extra = self.seed.below(
            Purpose::Media,
            !run,
            outgoing.number,
            (to - from) as u64 + 1,
        );
        let size = from as u64 + extra;
        let bytes = content(self.seed, run, outgoing.number, size);
        let hash = MediaHash(*blake3::hash(&bytes).as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.0[16..]);
        let upload = Upload {
            upload: UploadId(id),
            conversation: self.ledger.conversation(outgoing.conversation),
            hash,
            size,
            media_type: MediaType::default(),
            source: None,
        };
        (upload, bytes)
    }
}

async fn download(world: Rc<World>, incoming: Incoming) {
    // Never closed.
    let turn = world.transfers.acquire().await;
    let asked = Download {
        conversation: incoming.conversation,
        hash: incoming.hash,
        offset: 0,
        length: 0,
    };
    let mut outcome = Err(anyhow::anyhow!("its receiver had no connection"));
    for _ in 0..TRIES {
        let connection = world.engine.borrow().connection(incoming.device);
        if let Some(connection) = connection {
            outcome = transfer::download(&connection, &asked, incoming.size).await;
        }
        match &outcome {
            Ok(_) => break,
            Err(error) => match request::again_after(error, AGAIN) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break,
            },
        }
    }
    drop(turn);
    let mut engine = world.engine.borrow_mut();
    if !engine.is_over() {
        engine.fetched(&incoming, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_another_one_and_the_same_again() {
        let seed = Seed(4);
        let one = content(seed, 1, 0, 1_001);
        assert_eq!(one.len(), 1_001);
        assert_eq!(one, content(seed, 1, 0, 1_001));
        assert_ne!(one, content(seed, 1, 1, 1_001));
        assert_ne!(one, content(seed, 2, 0, 1_001));
    }
}
