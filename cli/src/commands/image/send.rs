//! `microagent image tag`, `export` and `push`: images under other names and in other places.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use microagent_images::{Error, Platform, PullOptions, Store};

use super::{here, shown};
use crate::{
    failure::{Failure, Result},
    output::{self, Format},
};

pub(super) fn tag(store: &Store, image: &str, name: &str) -> Result<u8> {
    let (name, manifests) = store.tag(image, name).map_err(|e| here(e, image))?;
    for manifest in manifests {
        output::line(&format!("{name}@{manifest}"))?;
    }
    Ok(0)
}

pub(super) async fn export(store: &Store, image: String, file: PathBuf, platform: Option<Platform>) -> Result<u8> {
    let to_stdout = file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::usage("an archive is not written to a terminal").help("give a file, or pipe the output"));
    }
    let (store, wanted, target) = (store.clone(), image.clone(), file.clone());
    let exported = shown(|progress| async move {
        let work = move || {
            if to_stdout {
                store.export_to(&wanted, platform.as_ref(), &mut io::stdout().lock(), progress)
            } else {
                store.export(&wanted, platform.as_ref(), &target, progress)
            }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(exported) => exported,
            Err(_) => Err(Error::Cancelled { what: "the export".to_owned() }),
        }
    });
    let exported = match exported.await? {
        Ok(exported) => exported,
        Err(code) => return Ok(code),
    };
    output::note(&format!("exported {}@{}", exported.reference, exported.digest));
    Ok(0)
}

pub(super) async fn push(
    store: &Store,
    image: &str,
    destination: Option<&str>,
    platform: Option<Platform>,
    options: &PullOptions,
    format: Format,
) -> Result<u8> {
    let pushed = shown(|progress| store.push(image, destination, platform.as_ref(), options, progress)).await?;
    let pushed = match pushed {
        Ok(pushed) => pushed,
        Err(code) => return Ok(code),
    };
    match output::structured(format, &pushed)? {
        Some(text) => output::print(&text)?,
        None => output::line(&format!("{}@{}", pushed.reference, pushed.digest))?,
    }
    Ok(0)
}
