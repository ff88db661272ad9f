//! Resources that hang on others: single ones, and collections with their members. A part that cannot be
//! read is left out; the account's role may not let it be seen.

use serde_json::Value;

use super::{
    fault::RedfishFault,
    http::{Answer, path_of},
    session::{Link, Root},
};

/// Parts of one kind that are read at most.
pub(super) const PARTS_MAX: usize = 128;
/// Pages of one collection that are read at most.
const PAGES_MAX: usize = 16;
/// The longest text that is kept.
const TEXT_MAX: usize = 200;

/// Who reads resources of one BMC.
pub(super) trait Ask: Send {
    /// Reads a resource; the path may have a query.
    fn get(&mut self, path: &str) -> impl Future<Output = Result<Answer, RedfishFault>> + Send;

    /// What the service says of itself.
    fn root(&mut self) -> impl Future<Output = Result<Root, RedfishFault>> + Send;

    /// The system that is meant by this name, and its path.
    fn system(
        &mut self,
        name: Option<&str>,
    ) -> impl Future<Output = Result<(String, Answer), RedfishFault>> + Send;
}

impl Ask for Link {
    async fn get(&mut self, path: &str) -> Result<Answer, RedfishFault> {
        Link::get(self, path).await
    }

    async fn root(&mut self) -> Result<Root, RedfishFault> {
        Link::root(self).await
    }

    async fn system(&mut self, name: Option<&str>) -> Result<(String, Answer), RedfishFault> {
        Link::system(self, name).await
    }
}

/// A collection, or as much of one as was read.
#[derive(Debug, Default)]
pub(super) struct Collection {
    /// How many members it has, as it says itself.
    pub(super) count: usize,
    /// Those that were read, in its order.
    pub(super) members: Vec<Value>,
}

/// The members of the collection that a resource links to; none if it has no such link.
pub(super) async fn parts(
    ask: &mut impl Ask,
    collection: &Value,
) -> Result<Vec<Value>, RedfishFault> {
    let Some(path) = path(collection) else { return Ok(Vec::new()) };
    let mut parts = whole(ask, &path).await?.members;
    parts.retain(is_there);
    Ok(parts)
}

/// A collection's first pages, with members that were read one by one where it only links to them.
pub(super) async fn whole(ask: &mut impl Ask, path: &str) -> Result<Collection, RedfishFault> {
    let mut collection = Collection::default();
    let mut next = Some(path.to_owned());
    for _ in 0..PAGES_MAX {
        let Some(page) = next.take() else { break };
        let Some(page) = self::page(ask, &page).await? else { break };
        collection.count = collection.count.max(page.count);
        collection.members.extend(page.members);
        next = page.next.filter(|_| collection.members.len() < PARTS_MAX);
    }
    collection.members.truncate(PARTS_MAX);
    resolve(ask, &mut collection.members).await?;
    collection.count = collection.count.max(collection.members.len());
    Ok(collection)
}

/// One page of a collection.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) count: usize,
    pub(super) members: Vec<Value>,
    /// Where the next one is.
    pub(super) next: Option<String>,
}

/// Reads a page, with the members themselves if the service can do that (DSP0266, "The $expand query
/// parameter"). None where there is no such collection, or none for this account.
pub(super) async fn page(ask: &mut impl Ask, path: &str) -> Result<Option<Page>, RedfishFault> {
    let root = ask.root().await?.body;
    let can_expand =
        root.pointer("/ProtocolFeaturesSupported/ExpandQuery/NoLinks") == Some(&Value::Bool(true));
    // The service has put what it needs into the query that it gave.
    if can_expand && !path.contains('?') {
        match ask.get(&format!("{path}?$expand=.")).await {
            Ok(answer) => return Ok(Some(read_page(&answer.body))),
            Err(fault) if is_about_this(&fault) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(part(ask, path).await?.map(|body| read_page(&body)))
}

fn read_page(body: &Value) -> Page {
    let members = body["Members"].as_array().cloned().unwrap_or_default();
    let count = body["Members@odata.count"].as_u64().and_then(|count| count.try_into().ok());
    let next = body["Members@odata.nextLink"].as_str().and_then(path_of);
    Page { count: count.unwrap_or(members.len()), members, next }
}

/// Reads the members that are only links. Those that cannot be read are gone then.
pub(super) async fn resolve(
    ask: &mut impl Ask,
    members: &mut Vec<Value>,
) -> Result<(), RedfishFault> {
    for member in members.iter_mut().filter(|member| is_link(member)) {
        *member = match path(member) {
            Some(path) => part(ask, &path).await?.unwrap_or(Value::Null),
            None => Value::Null,
        };
    }
    members.retain(Value::is_object);
    Ok(())
}

/// The resource that a resource links to; none where there is no such link, or nothing behind it.
pub(super) async fn linked(
    ask: &mut impl Ask,
    reference: &Value,
) -> Result<Option<Value>, RedfishFault> {
    match path(reference) {
        Some(path) => part(ask, &path).await,
        None => Ok(None),
    }
}

/// A resource; none where it cannot be read though the BMC is well.
pub(super) async fn part(ask: &mut impl Ask, path: &str) -> Result<Option<Value>, RedfishFault> {
    match ask.get(path).await {
        Ok(answer) => Ok(Some(answer.body)),
        Err(fault) if is_about_this(&fault) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Whether a fault says something about one resource, rather than about the BMC.
fn is_about_this(fault: &RedfishFault) -> bool {
    use RedfishFault::{Garbled, NotNow, Overloaded, Rejected, TooLittle};
    matches!(fault, Rejected(_) | TooLittle(_) | NotNow(_) | Garbled(_) | Overloaded(_))
}

/// Whether it is only a link to a member.
pub(super) fn is_link(member: &Value) -> bool {
    member.as_object().is_some_and(|object| object.len() == 1 && object.contains_key("@odata.id"))
}

/// Many BMCs list empty sockets and bays.
pub(super) fn is_there(part: &Value) -> bool {
    part.pointer("/Status/State").and_then(Value::as_str) != Some("Absent")
}

/// The path that a reference names.
pub(super) fn path(reference: &Value) -> Option<String> {
    reference["@odata.id"].as_str().and_then(path_of)
}

/// A text that says something: without control characters, and not too long.
pub(super) fn text(value: &Value) -> Option<String> {
    let text: String = value.as_str()?.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
