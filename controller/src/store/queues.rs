//! Queues, where reservations wait.

use haas_api::{names::QueueName, queue::QueueSpec};
use sqlx::{query, query_as};

use super::{Result, StoreError, Tx, changed, from_json, on, to_json};

/// A queue as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    /// What it is like.
    pub spec: QueueSpec,
    /// Whether it stands in haasd.toml.
    pub from_file: bool,
}

impl Tx {
    /// All queues, each behind the one above it, and by name.
    pub async fn queues(&mut self) -> Result<Vec<QueueRow>> {
        let rows: Vec<(String, bool)> = on!(
            self,
            c => query_as("select spec, from_file from queues order by name").fetch_all(c)
        )?;
        let rows = rows.into_iter();
        let mut left: Vec<QueueRow> = rows
            .map(|(spec, from_file)| Ok(QueueRow { spec: from_json("queues", &spec)?, from_file }))
            .collect::<Result<_>>()?;
        let mut sorted: Vec<QueueRow> = Vec::with_capacity(left.len());
        // What the table references is there, and nothing is above itself.
        while !left.is_empty() {
            let before = left.len();
            for row in std::mem::take(&mut left) {
                let parent = row.spec.parent.as_ref();
                let is_next =
                    parent.is_none_or(|name| sorted.iter().any(|one| one.spec.name == *name));
                if is_next { sorted.push(row) } else { left.push(row) }
            }
            if left.len() == before {
                let problem = format!("the queue {} is above itself", left[0].spec.name);
                return Err(StoreError::Corrupt { table: "queues", problem });
            }
        }
        Ok(sorted)
    }

    /// The queue of this name.
    pub async fn queue(&mut self, name: &QueueName) -> Result<Option<QueueRow>> {
        Ok(self.queues().await?.into_iter().find(|row| row.spec.name == *name))
    }

    /// Adds a queue, or gives one that is there another form. The one above it must be there.
    pub async fn set_queue(&mut self, row: &QueueRow) -> Result<()> {
        self.count_up("calendar").await?;
        changed!(
            self,
            query(
                "insert into queues (name, parent, spec, from_file) values ($1, $2, $3, $4)
                 on conflict (name) do update set parent = $2, spec = $3, from_file = $4",
            )
            .bind(row.spec.name.as_str())
            .bind(row.spec.parent.as_ref().map(QueueName::as_str))
            .bind(to_json(&row.spec))
            .bind(row.from_file)
        )?;
        Ok(())
    }

    /// Removes a queue that has none below it, with its grants; false where there is none.
    pub async fn remove_queue(&mut self, name: &QueueName) -> Result<bool> {
        self.count_up("calendar").await?;
        self.change_powers();
        changed!(self, query("delete from grants where queue = $1").bind(name.as_str()))?;
        let done = changed!(self, query("delete from queues where name = $1").bind(name.as_str()))?;
        Ok(done == 1)
    }
}
