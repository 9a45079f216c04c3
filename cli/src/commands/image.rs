//! `microagent image`

use std::sync::Arc;

use jiff::Timestamp;
use microagent_base::Progress;
use microagent_images::{
    Image, ImageReference, LayerDescriptor, Platform, PullOptions, PullPolicy, Store, StoredImage, host_platform,
};
use serde_json::{Value, json};

use super::{Interrupt, signal_code};
use crate::{
    context::Context,
    failure::{Failure, Result},
    output::{self, Format, OutputArgs, human, progress::Bars, table::Table},
};

/// The images on this host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Bring an image onto this host
    Pull {
        /// The image: `registry/name:tag`, `name@sha256:…`, `oci-layout:DIR[:tag]`, `oci-archive:FILE` or `docker-archive:FILE[:name:tag]`
        image: ImageReference,
        /// For this platform, such as linux/arm64 [default: that of this host]
        #[arg(long)]
        platform: Option<Platform>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the images on this host
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show how an image on this host wants to be run
    Inspect {
        /// The image, by name or digest
        image: String,
        /// As JSON unless YAML is asked for
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove images from this host, with the root disks made from them
    #[command(visible_alias = "rm")]
    Remove {
        /// The images, by name or digest
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let store = Store::open(&context.paths.images())?;
    match args.verb {
        Verb::Pull { image, platform, output } => pull(&store, image, platform, output.output).await,
        Verb::List { output } => list(&store, output.output),
        Verb::Inspect { image, output } => inspect(&store, &image, output.output),
        Verb::Remove { images } => remove(&store, &images),
    }
}

async fn pull(store: &Store, image: ImageReference, platform: Option<Platform>, format: Format) -> Result<u8> {
    let bars = Arc::new(Bars::new());
    let mut interrupt = Interrupt::listen()?;
    let platform = platform.unwrap_or_else(host_platform);
    let registries = microagent_controller::registries().map_err(|e| Failure::new(e.to_string()))?;
    let options = PullOptions { registries, ..PullOptions::default() };
    let progress: Arc<dyn Progress> = Arc::clone(&bars) as _;
    let pull = store.pull(&image, &platform, PullPolicy::Always, &options, progress);
    tokio::pin!(pull);
    let pulled = tokio::select! {
        pulled = &mut pull => pulled,
        number = interrupt.next() => {
            // What has come so far stays, and the next pull goes on from there.
            bars.cancel();
            let _ = pull.await;
            bars.clear();
            return Ok(signal_code(number));
        }
    };
    bars.clear();
    let image = pulled.map_err(|e| {
        let again = e.is_retryable() && !e.needs_person();
        let message = format!("{}: {e}", e.category());
        if again { Failure::try_again(message).help("try again later") } else { Failure::new(message) }
    })?;
    match output::structured(format, &whole(&image))? {
        Some(text) => output::print(&text)?,
        None => output::line(&format!("{}@{}", image.reference, image.digest))?,
    }
    Ok(0)
}

fn list(store: &Store, format: Format) -> Result<u8> {
    let images = store.list()?;
    let values: Vec<_> = images.iter().map(brief).collect();
    let text = match output::structured(format, &values)? {
        Some(text) => text,
        None if format == Format::Name => images.iter().map(|i| format!("{}\n", name(i))).collect(),
        None => table(&images, Timestamp::now()),
    };
    output::print(&text)?;
    Ok(0)
}

/// An image of the list, for programs.
fn brief(image: &StoredImage) -> Value {
    json!({
        "reference": image.reference,
        "digest": image.digest,
        "platform": image.platform.to_string(),
        "size": image.size,
        "pulled": image.pulled,
        "complete": image.complete,
    })
}

/// All of an image, for programs.
fn whole(image: &Image) -> Value {
    let layer = |l: &LayerDescriptor| json!({ "digest": l.digest, "size": l.size, "diffId": l.diff_id, "mediaType": l.media_type });
    let config = &image.config;
    json!({
        "reference": image.reference,
        "digest": image.digest,
        "platform": image.platform.to_string(),
        "size": image.size,
        "config": {
            "entrypoint": config.entrypoint,
            "cmd": config.cmd,
            "env": config.env,
            "user": config.user,
            "workingDir": config.working_dir,
            "stopSignal": config.stop_signal,
        },
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn name(image: &StoredImage) -> String {
    image.reference.clone().unwrap_or_else(|| image.digest.to_string())
}

fn table(images: &[StoredImage], now: Timestamp) -> String {
    let mut table = Table::new(&["IMAGE", "DIGEST", "PLATFORM", "SIZE", "PULLED", "STATE"]);
    for image in images {
        table.row([
            image.reference.clone().unwrap_or_default(),
            image.digest.short(),
            image.platform.to_string(),
            human::bytes(image.size),
            image.pulled.map(|t| human::age(t, now)).unwrap_or_default(),
            if image.complete { "complete" } else { "incomplete" }.to_owned(),
        ]);
    }
    table.render("")
}

fn inspect(store: &Store, wanted: &str, format: Format) -> Result<u8> {
    let (image, stored) = find(store, wanted)?;
    let baseline = store.baseline(&image)?;
    let mut value = whole(&image);
    value["reference"] = json!(stored.reference);
    value["pulled"] = json!(stored.pulled);
    value["rootDisk"] = json!(baseline.map(|b| json!({ "path": b.path, "size": b.size, "allocated": b.allocated })));
    let format = if format == Format::Yaml { Format::Yaml } else { Format::Json };
    output::print(&output::structured(format, &value)?.unwrap_or_default())?;
    Ok(0)
}

/// The image of this name or digest, or of this beginning of a digest.
fn find(store: &Store, wanted: &str) -> Result<(Image, StoredImage)> {
    let canonical = wanted.parse::<ImageReference>().map(|r| r.to_string()).unwrap_or_default();
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let meant = |image: &StoredImage| {
        image.reference.as_deref().is_some_and(|r| r == wanted || r == canonical)
            || hex.len() >= 6 && image.digest.hex().starts_with(hex)
    };
    let stored = store.list()?.into_iter().find(meant).ok_or_else(|| not_found(wanted))?;
    let image = store.image(&stored.digest)?.ok_or_else(|| not_found(wanted))?;
    Ok((image, stored))
}

fn not_found(image: &str) -> Failure {
    Failure::new(format!("image {image} is not on this host, or not all of it"))
        .help(format!("bring it with `microagent image pull {image}`"))
}

fn remove(store: &Store, images: &[String]) -> Result<u8> {
    for image in images {
        let removed = store.remove(image).map_err(|e| {
            let unknown = matches!(e, microagent_images::Error::ImageNotFound { .. });
            let failure = Failure::from(e);
            if unknown { failure.help("list them with `microagent image list`") } else { failure }
        })?;
        for reference in &removed.references {
            output::line(&format!("removed {reference}"))?;
        }
        output::note(&format!("freed {}", human::bytes(removed.bytes)));
    }
    Ok(0)
}
