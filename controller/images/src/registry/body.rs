//! Bodies from outside, bounded.

use reqwest::Response;

/// More of an error page than anybody reads.
const MAX_ERROR_PAGE: u64 = 16 << 10;
/// How much of a registry's own words an error message carries.
const MAX_MESSAGE: usize = 300;

/// The whole body; none when it is longer than `limit`.
pub(super) async fn read(mut response: Response, limit: u64) -> reqwest::Result<Option<Vec<u8>>> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// What an error answer says, made safe to print: `: CODE message`, or nothing.
pub(super) async fn message(response: Response) -> String {
    let Ok(Some(bytes)) = read(response, MAX_ERROR_PAGE).await else { return String::new() };
    let Ok(page) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return String::new() };
    let word = |value: &serde_json::Value, name: &str| value.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let first = page.get("errors").and_then(|errors| errors.get(0));
    let parts = match first {
        Some(error) => vec![word(error, "code"), word(error, "message")],
        // What token servers say.
        None => vec![word(&page, "error"), word(&page, "error_description"), word(&page, "details")],
    };
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// All causes of an error, without its URL, which may hold a token of the storage server.
pub(super) fn causes(error: reqwest::Error) -> String {
    microagent_base::causes(&error.without_url())
}
