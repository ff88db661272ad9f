//! What may be asked of collections: members in place of links, and pages (DSP0266, "Query parameters").

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A collection as it was asked for. `page`: how many members come at once; 0 is all of them. None where
/// the service cannot do what is asked.
pub(super) fn asked(
    tree: &BTreeMap<String, Value>,
    mut body: Value,
    path: &str,
    query: &str,
    page: usize,
) -> Option<Value> {
    let expands = tree["/redfish/v1"].pointer("/ProtocolFeaturesSupported/ExpandQuery/NoLinks");
    let (mut skip, mut expand) = (0, false);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("$skip", number)) => skip = number.parse().ok()?,
            Some(("$expand", ".")) if expands == Some(&json!(true)) => expand = true,
            _ => return None,
        }
    }
    let Some(all) = body["Members"].as_array().cloned() else { return Some(body) };
    let most = if page == 0 { all.len() } else { page };
    let members = all.iter().skip(skip).take(most).map(|member| {
        let path = member["@odata.id"].as_str().unwrap_or_default().trim_end_matches('/');
        let whole = tree.get(path).filter(|_| expand);
        whole.unwrap_or(member).clone()
    });
    body["Members"] = members.collect();
    if skip + most < all.len() {
        let expand = if expand { "&$expand=." } else { "" };
        let next = format!("{path}?$skip={}{expand}", skip + most);
        body["Members@odata.nextLink"] = json!(next);
    }
    Some(body)
}
