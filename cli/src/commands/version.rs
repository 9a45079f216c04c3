//! `microagent version`

use serde_json::json;

use crate::{
    failure::Result,
    output::{self, OutputArgs},
};

/// Show the version
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> Result<u8> {
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "apiVersion": "microagent.dev/v1alpha1",
        "supervisorProtocol": microagent_supervisor_protocol::PROTOCOL,
        "guestProtocol": microagent_guest_protocol::VERSION,
        "platform": microagent_images::host_platform().to_string(),
    });
    match output::structured(args.output.output, &value)? {
        Some(text) => output::print(&text)?,
        None => output::line(&format!("microagent {}", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(0)
}
