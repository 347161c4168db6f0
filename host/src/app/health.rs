//! stand-in
use crate::app::{Shared, StartError};
use std::sync::Arc;
pub struct Health { pub address: std::net::SocketAddr }
pub async fn start(shared: &Arc<Shared>) -> Result<Health, StartError> {
    let listener = crate::app::warmup::listen("health", shared.settings.borrow().process.health.listen).await?;
    Ok(Health { address: listener.local_addr().unwrap() })
}
impl Health { pub async fn ended(self) {} }
