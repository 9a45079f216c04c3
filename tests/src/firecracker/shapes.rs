//! The bodies of requests, field by field, written from Firecracker's documentation.

use serde_json::{Map, Value};

/// A field of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    name: &'static str,
    kind: Kind,
    needed: bool,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Flag,
    /// A number without a fraction, within these bounds.
    Whole(u64, u64),
    OneOf(&'static [&'static str]),
    Object(&'static [Field]),
    List(&'static [Field]),
}

/// What can be asked: a method, a path whose last part may be a name, and the fields of the body.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// `PUT` or `PATCH`.
    pub method: &'static str,
    /// Such as `/drives/{drive_id}`.
    pub path: &'static str,
    fields: &'static [Field],
    /// When it can be asked.
    pub(super) when: When,
}

/// When something can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
    Always,
}

const fn needed(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, needed: true }
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, needed: false }
}

const BUCKET: &[Field] = &[
    needed("size", Kind::Whole(0, u64::MAX)),
    needed("refill_time", Kind::Whole(0, u64::MAX)),
    may("one_time_burst", Kind::Whole(0, u64::MAX)),
];

const LIMITER: &[Field] = &[may("bandwidth", Kind::Object(BUCKET)), may("ops", Kind::Object(BUCKET))];

const MEMORY_BACKEND: &[Field] =
    &[needed("backend_type", Kind::OneOf(&["File", "Uffd"])), needed("backend_path", Kind::Text)];

const NETWORK_OVERRIDE: &[Field] = &[needed("iface_id", Kind::Text), needed("host_dev_name", Kind::Text)];

const VSOCK_OVERRIDE: &[Field] = &[needed("uds_path", Kind::Text)];

/// Everything that a supervisor may ask.
pub const RESOURCES: &[Resource] = &[
    Resource {
        method: "PUT",
        path: "/machine-config",
        fields: &[
            needed("vcpu_count", Kind::Whole(1, 32)),
            needed("mem_size_mib", Kind::Whole(1, u64::MAX)),
            may("smt", Kind::Flag),
            may("track_dirty_pages", Kind::Flag),
            may("huge_pages", Kind::OneOf(&["None", "Transparent", "2M"])),
            may("cpu_template", Kind::OneOf(&["C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"])),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/boot-source",
        fields: &[
            needed("kernel_image_path", Kind::Text),
            may("initrd_path", Kind::Text),
            may("boot_args", Kind::Text),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/drives/{drive_id}",
        fields: &[
            needed("drive_id", Kind::Text),
            needed("is_root_device", Kind::Flag),
            may("partuuid", Kind::Text),
            may("cache_type", Kind::OneOf(&["Unsafe", "Writeback"])),
            may("is_read_only", Kind::Flag),
            may("path_on_host", Kind::Text),
            may("rate_limiter", Kind::Object(LIMITER)),
            may("io_engine", Kind::OneOf(&["Sync", "Async"])),
            may("socket", Kind::Text),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/network-interfaces/{iface_id}",
        fields: &[
            needed("iface_id", Kind::Text),
            needed("host_dev_name", Kind::Text),
            may("guest_mac", Kind::Text),
            may("mtu", Kind::Whole(68, 65_535)),
            may("rx_rate_limiter", Kind::Object(LIMITER)),
            may("tx_rate_limiter", Kind::Object(LIMITER)),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/vsock",
        fields: &[
            needed("guest_cid", Kind::Whole(3, u32::MAX as u64)),
            needed("uds_path", Kind::Text),
            may("vsock_id", Kind::Text),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/balloon",
        fields: &[
            needed("amount_mib", Kind::Whole(0, u32::MAX as u64)),
            needed("deflate_on_oom", Kind::Flag),
            may("stats_polling_interval_s", Kind::Whole(0, u16::MAX as u64)),
            may("free_page_hinting", Kind::Flag),
            may("free_page_reporting", Kind::Flag),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/entropy",
        fields: &[may("rate_limiter", Kind::Object(LIMITER))],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/serial",
        fields: &[may("serial_out_path", Kind::Text), may("rate_limiter", Kind::Object(BUCKET))],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/logger",
        fields: &[
            may("level", Kind::OneOf(&["Error", "Warning", "Info", "Debug", "Trace", "Off"])),
            may("log_path", Kind::Text),
            may("show_level", Kind::Flag),
            may("show_log_origin", Kind::Flag),
            may("module", Kind::Text),
        ],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/metrics",
        // What 1.17 has beside it (`emit_id`, `properties`) an older one refuses.
        fields: &[needed("metrics_path", Kind::Text)],
        when: When::Before,
    },
    Resource {
        method: "PUT",
        path: "/actions",
        fields: &[needed("action_type", Kind::OneOf(&["FlushMetrics", "InstanceStart", "SendCtrlAltDel"]))],
        when: When::Always,
    },
    Resource {
        method: "PATCH",
        path: "/vm",
        fields: &[needed("state", Kind::OneOf(&["Paused", "Resumed"]))],
        when: When::After,
    },
    Resource {
        method: "PUT",
        path: "/snapshot/create",
        fields: &[
            needed("snapshot_path", Kind::Text),
            needed("mem_file_path", Kind::Text),
            may("snapshot_type", Kind::OneOf(&["Full", "Diff"])),
        ],
        when: When::After,
    },
    Resource {
        method: "PUT",
        path: "/snapshot/load",
        // `huge_pages` came with 1.17; what is deprecated is not here.
        fields: &[
            needed("snapshot_path", Kind::Text),
            needed("mem_backend", Kind::Object(MEMORY_BACKEND)),
            may("track_dirty_pages", Kind::Flag),
            may("resume_vm", Kind::Flag),
            may("clock_realtime", Kind::Flag),
            may("network_overrides", Kind::List(NETWORK_OVERRIDE)),
            may("vsock_override", Kind::Object(VSOCK_OVERRIDE)),
        ],
        when: When::Before,
    },
];

/// What is asked, and the name at the end of its path.
pub(super) fn find<'p>(method: &str, path: &'p str) -> Option<(&'static Resource, Option<&'p str>)> {
    RESOURCES.iter().filter(|resource| resource.method == method).find_map(|resource| {
        match resource.path.split_once('{') {
            Some((prefix, _)) => path.strip_prefix(prefix).map(|name| (resource, Some(name))),
            None => (resource.path == path).then_some((resource, None)),
        }
    })
}

impl Resource {
    /// The names of the body's fields.
    pub fn field_names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }

    /// The body, where it is of this shape; else the fault.
    pub(super) fn read(&self, body: &[u8]) -> Result<Map<String, Value>, String> {
        let wrong = |why: &dyn std::fmt::Display| {
            format!("An error occurred when deserializing the json body of a request: {why}.")
        };
        let value: Value = serde_json::from_slice(body).map_err(|e| wrong(&e))?;
        let Value::Object(object) = value else { return Err(wrong(&"invalid type: a map is needed")) };
        check(self.fields, &object).map_err(|why| wrong(&why))?;
        Ok(object)
    }
}

fn check(fields: &[Field], object: &Map<String, Value>) -> Result<(), String> {
    if let Some(name) = object.keys().find(|name| fields.iter().all(|field| field.name != name.as_str())) {
        return Err(format!("unknown field `{name}`"));
    }
    for field in fields {
        match object.get(field.name) {
            Some(value) => field.kind.check(value).map_err(|why| format!("{}: {why}", field.name))?,
            None if field.needed => return Err(format!("missing field `{}`", field.name)),
            None => {}
        }
    }
    Ok(())
}

impl Kind {
    fn check(self, value: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("invalid value {value}, expected {what}"));
        match (self, value) {
            (Self::Text, Value::String(_)) | (Self::Flag, Value::Bool(_)) => Ok(()),
            (Self::Whole(low, high), Value::Number(number)) => match number.as_u64() {
                Some(number) if (low..=high).contains(&number) => Ok(()),
                _ => wrong(&format!("{low} to {high}")),
            },
            (Self::OneOf(words), Value::String(word)) if words.contains(&word.as_str()) => Ok(()),
            (Self::OneOf(words), _) => wrong(&format!("one of {words:?}")),
            (Self::Object(fields), Value::Object(object)) => check(fields, object),
            (Self::List(fields), Value::Array(items)) => items.iter().try_for_each(|item| match item {
                Value::Object(object) => check(fields, object),
                _ => wrong("maps"),
            }),
            _ => wrong(&format!("{self:?}")),
        }
    }
}

/// What a part of the API may be named.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("The ID cannot be empty.");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err("API Resource IDs can only contain alphanumeric characters and underscores.");
    }
    Ok(())
}
