//! The daemon's issuer: keys in the store, changed in time.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::sleep;

use super::ServeError;
use super::vault::Vault;
use crate::cli::{chain, tell};
use crate::issuer::Issuer;
use crate::limits;

/// Under which name the keys are kept. No sandbox is called so.
pub(super) const RECORD: &str = "/issuer";

/// The issuer with the keys that were kept, or with new ones; they change in time for as long as the runtime lives that
/// this is called in, until another process has the store.
///
/// # Errors
/// What was kept cannot be read, or what is new cannot be kept.
pub(super) async fn open(url: &str, kept: Option<&[u8]>, vault: &Arc<Vault>) -> Result<Arc<Issuer>, ServeError> {
    let issuer = Issuer::open(url, kept, SystemTime::now).map_err(ServeError::own("take up the keys of the issuer"))?;
    let issuer = Arc::new(issuer);
    turn(&issuer, vault).await.map_err(ServeError::own("make the keys of the issuer"))?;
    let (turning, vault) = (Arc::clone(&issuer), Arc::clone(vault));
    tokio::spawn(async move {
        loop {
            sleep(limits::ISSUER_CHECK).await;
            if vault.has_let_go() {
                return;
            }
            if let Err(error) = turn(&turning, &vault).await {
                // The keys that there are sign on, and it is tried again.
                tell(&format!("exeat: the keys of the issuer could not be changed: {}\n", chain(&*error)));
            }
        }
    });
    Ok(issuer)
}

/// Makes the keys that are due, keeps them, and only then signs with them.
async fn turn(issuer: &Arc<Issuer>, vault: &Vault) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (issuer, store) = (Arc::clone(issuer), vault.store().await?);
    let turned = tokio::task::spawn_blocking(move || {
        if let Some(keys) = issuer.due()? {
            store.put(RECORD, &keys.to_bytes()?)?;
            issuer.adopt(keys);
        }
        Ok(())
    });
    turned.await?
}
