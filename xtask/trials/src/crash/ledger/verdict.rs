//! The figures of a run, and the first complaints.

use std::fmt;

/// Complaints that are printed; the rest is counted only.
const COMPLAINTS_SHOWN: usize = 20;

/// The figures of a run. What is above the line in [`Verdict::is_good`] is a failure unless it is 0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Messages acked.
    pub(crate) acked: usize,
    /// Acked messages that are missing somewhere.
    pub(crate) lost: usize,
    /// Messages that are somewhere more than once.
    pub(crate) doubled: usize,
    /// Messages out of order, or differently ordered for two members.
    pub(crate) reordered: usize,
    /// Messages of a group that were shown to somebody who was no member.
    pub(crate) leaked: usize,
    /// Acked changes of messages and groups that somebody does not see.
    pub(crate) undone: usize,
    /// Acked files that are missing or damaged, and uploads that began anew although bytes of them were there.
    pub(crate) files_lost: usize,
    /// Everything else that must not be.
    pub(crate) wrong: usize,
    /// Groups.
    pub(crate) groups: usize,
    /// Members' joinings and leavings that the groups' histories have.
    pub(crate) moves: usize,
    /// Changes of messages and groups acked.
    pub(crate) changes: usize,
    /// Files acked.
    pub(crate) files: usize,
    /// Times that an upload was cut, by a kill mostly, and went on behind what the gateway had.
    pub(crate) resumed: usize,
    /// Notices of pulled groups that members' first devices showed.
    pub(crate) noticed: usize,
    pub(super) complaints: Vec<String>,
}

impl Verdict {
    /// Something else that must not be.
    pub(crate) fn wrong(&mut self, complaint: String) {
        self.wrong += 1;
        self.complain(complaint);
    }

    /// Whether everything is as promised.
    pub(crate) fn is_good(&self) -> bool {
        let Self {
            lost,
            doubled,
            reordered,
            leaked,
            undone,
            files_lost,
            wrong,
            acked: _,
            groups: _,
            moves: _,
            changes: _,
            files: _,
            resumed: _,
            noticed: _,
            complaints: _,
        } = self;
        lost + doubled + reordered + leaked + undone + files_lost + wrong == 0
    }

    /// The first complaints, for a person.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    pub(super) fn lost(&mut self, complaint: String) {
        self.lost += 1;
        self.complain(complaint);
    }

    pub(super) fn doubled(&mut self, complaint: String) {
        self.doubled += 1;
        self.complain(complaint);
    }

    pub(super) fn reordered(&mut self, complaint: String) {
        self.reordered += 1;
        self.complain(complaint);
    }

    pub(super) fn leaked(&mut self, complaint: String) {
        self.leaked += 1;
        self.complain(complaint);
    }

    pub(super) fn undone(&mut self, complaint: String) {
        self.undone += 1;
        self.complain(complaint);
    }

    pub(super) fn file_lost(&mut self, complaint: String) {
        self.files_lost += 1;
        self.complain(complaint);
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_SHOWN {
            self.complaints.push(complaint);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acked,
            lost,
            doubled,
            reordered,
            leaked,
            undone,
            files_lost,
            wrong,
            groups,
            moves,
            changes,
            files,
            resumed,
            noticed,
            complaints: _,
        } = self;
        write!(
            f,
            "acked={acked} lost={lost} doubled={doubled} reordered={reordered} leaked={leaked} undone={undone} \
             files_lost={files_lost} wrong={wrong} groups={groups} moves={moves} changes={changes} files={files} \
             resumed={resumed} noticed={noticed}"
        )
    }
}
