//! Serves a file to everybody who can reach the port: `serve ADDR:PORT IQN FILE`.

use std::sync::Arc;

use iscsi_target::{Lun, LunIdentity, OneTarget, Options, listen, serve};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [address, name, file] = std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap();
    let lun = Lun::open(&file, LunIdentity::from_path(&file)?)?;
    let listener = listen(address.parse()?)?;
    eprintln!("{name} on {}", listener.local_addr()?);
    let target = Arc::new(OneTarget::new(name, lun));
    serve(vec![listener], target, Options::default(), CancellationToken::new()).await?;
    Ok(())
}
