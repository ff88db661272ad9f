//! Which inventory files were imported.

use haas_api::names::Digest;
use sqlx::{query, query_scalar};

use super::{Result, Tx, changed, on};
use crate::model::Micros;

impl Tx {
    /// The hash that an inventory file had when it was last imported; none if it never was.
    pub async fn last_import(&mut self, file: &str) -> Result<Option<String>> {
        on!(
            self,
            c => query_scalar(
                "select hash from inventory_imports where file = $1 order by seq desc limit 1",
            )
            .bind(file)
            .fetch_optional(c)
        )
    }

    /// Notes an import.
    pub async fn add_import(&mut self, hash: &Digest, file: &str, at: Micros) -> Result<()> {
        let seq = self.count_up("inventory").await?;
        changed!(
            self,
            query("insert into inventory_imports (seq, hash, file, imported_at) values ($1, $2, $3, $4)")
                .bind(seq)
                .bind(hash.as_str())
                .bind(file)
                .bind(at)
        )?;
        Ok(())
    }
}
