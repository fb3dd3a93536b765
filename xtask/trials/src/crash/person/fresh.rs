//! A device that logs in after everything: it must be given all of it, and the gateway must still have it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::{ConversationId, Cursor};
use quipu_client::{Client, HistoryRange};
use tokio::time::timeout;

use super::{PASSWORD, Person, STEP_WITHIN, files, lock};
use crate::crash::ledger::View;

/// Messages asked for in one page of history.
const PAGE: usize = 256;

impl Person {
    /// Logs in with a new device after everything: it must be given the whole inbox, in the order that the first one saw.
    /// Then reads the histories from the gateway, and fetches files that others brought.
    pub(crate) async fn look_with_a_fresh_device(&self, expected: usize) -> Result<()> {
        let client = Client::open(self.config(None)).await?;
        timeout(STEP_WITHIN, client.login(self.user.as_str(), PASSWORD))
            .await
            .context("logging in takes too long")??;
        let mut tail = client.tail(Cursor::START);
        let mut seen = 0;
        while seen < expected {
            let page = timeout(STEP_WITHIN, tail.next()).await;
            let Ok(page) = page else {
                // What is missing is the judge's to name.
                break;
            };
            for arrival in page? {
                self.shown(View::Fresh, arrival.inbox_seq, &arrival.message);
                seen += 1;
            }
        }
        let friends = self.friends.iter();
        let direct = friends.map(|friend| ConversationId::direct(&self.user, friend));
        self.read_histories(&client, direct).await?;
        self.fetch_files(&client).await?;
        client.close().await;
        Ok(())
    }

    /// Reads the histories of the groups that it owns: they say who should have been shown what.
    pub(crate) async fn look_at_own_groups(&self) -> Result<()> {
        if self.owns.is_empty() {
            return Ok(());
        }
        let client = Client::open(self.config(None)).await?;
        timeout(STEP_WITHIN, client.login(self.user.as_str(), PASSWORD))
            .await
            .context("logging in takes too long")??;
        self.read_histories(&client, self.owns.iter().copied())
            .await?;
        client.close().await;
        Ok(())
    }

    async fn read_histories(
        &self,
        client: &Client,
        conversations: impl Iterator<Item = ConversationId>,
    ) -> Result<()> {
        for conversation in conversations {
            let history = read_history(client, conversation).await?;
            lock(&self.ledger).history(conversation, &history);
        }
        Ok(())
    }

    async fn fetch_files(&self, client: &Client) -> Result<()> {
        loop {
            let found = {
                let ledger = &mut *lock(&self.ledger);
                let claimed = ledger.claim_file(&self.user);
                claimed.and_then(|(of, hash)| Some((of, hash, ledger.files.fetches(of, hash)?)))
            };
            let Some((of, hash, made)) = found else {
                return Ok(());
            };
            std::fs::create_dir_all(&self.files)?;
            let path = self.files.join(format!("end-{hash}"));
            let fetched = timeout(STEP_WITHIN, client.download(of, hash, &path, |_| {}));
            let fetched = fetched.await.context("a file takes too long")?;
            let same = files::compare(&path, &made, fetched);
            lock(&self.ledger).files.fetched(of, hash, same);
        }
    }
}

/// A whole history, page by page, as the gateway has it.
async fn read_history(client: &Client, conversation: ConversationId) -> Result<Vec<Message>> {
    let mut messages: BTreeMap<u64, Message> = BTreeMap::new();
    let mut first = None;
    loop {
        let range = HistoryRange {
            first,
            last: None,
            limit: PAGE,
            newest_first: false,
        };
        let page = timeout(STEP_WITHIN, client.history(conversation, range))
            .await
            .context("a page of history takes too long")??;
        let last = page.messages.last().map(|last| last.seq.next());
        messages.extend(page.messages.into_iter().map(|one| (one.seq.get(), one)));
        match last {
            Some(next) if page.more => first = Some(next),
            Some(_) | None => return Ok(messages.into_values().collect()),
        }
    }
}
