//! A store in memory that fails or stops where a test says, and knows what parts it holds.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use barycenter::storage::Store;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use tokio::sync::Notify;

/// Where an operation is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    BeforeCreate,
    AfterCreate,
    BeforePart,
    AfterPart,
    BeforeFinish,
    AfterFinish,
    BeforeRead,
}

impl Point {
    pub const ALL: [Self; 7] = [
        Self::BeforeCreate,
        Self::AfterCreate,
        Self::BeforePart,
        Self::AfterPart,
        Self::BeforeFinish,
        Self::AfterFinish,
        Self::BeforeRead,
    ];
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails.
    Fail,
    /// The operation fails for want of room.
    Full,
    /// It never returns: whoever waits can only be killed.
    Hang,
}

#[derive(Debug, Default)]
struct Plan {
    /// Happens once.
    next: Mutex<Option<(Point, Fault)>>,
    /// Bytes of parts that are held, by upload and number.
    parts: Mutex<HashMap<String, HashMap<usize, usize>>>,
    hanging: Notify,
}

/// The store and its switch.
#[derive(Clone, Debug, Default)]
pub struct Faulty {
    inner: Arc<InMemory>,
    plan: Arc<Plan>,
}

impl Faulty {
    pub fn store(&self) -> Store {
        Store::new(Arc::new(self.clone()), Arc::new(self.clone()))
    }

    /// Lets this happen at the next operation that comes to the point.
    pub fn plan(&self, point: Point, fault: Fault) {
        *self.plan.next.lock().unwrap() = Some((point, fault));
    }

    /// Whether what was planned has happened.
    pub fn is_spent(&self) -> bool {
        self.plan.next.lock().unwrap().is_none()
    }

    /// Until an operation hangs.
    pub async fn hanging(&self) {
        self.plan.hanging.notified().await;
    }

    /// Bytes of parts that have neither become an object nor been given back.
    pub fn part_bytes(&self) -> usize {
        self.plan.parts.lock().unwrap().values().flat_map(HashMap::values).sum()
    }

    async fn pass(&self, point: Point) -> Result<()> {
        let planned = self.plan.next.lock().unwrap().take_if(|(planned, _)| *planned == point);
        match planned {
            None => Ok(()),
            Some((_, Fault::Fail)) => Err(object_store::Error::Generic { store: "faulty", source: "planned".into() }),
            Some((_, Fault::Full)) => {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
                Err(object_store::Error::Generic { store: "faulty", source })
            }
            Some((_, Fault::Hang)) => {
                self.plan.hanging.notify_one();
                std::future::pending().await
            }
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<String> {
        self.pass(Point::BeforeCreate).await?;
        let id = self.inner.create_multipart(path).await?;
        self.pass(Point::AfterCreate).await?;
        Ok(id)
    }

    async fn put_part(&self, path: &Path, id: &String, part: usize, data: PutPayload) -> Result<PartId> {
        self.pass(Point::BeforePart).await?;
        let length = data.content_length();
        let stored = self.inner.put_part(path, id, part, data).await?;
        self.plan.parts.lock().unwrap().entry(id.clone()).or_default().insert(part, length);
        self.pass(Point::AfterPart).await?;
        Ok(stored)
    }

    async fn complete_multipart(&self, path: &Path, id: &String, parts: Vec<PartId>) -> Result<PutResult> {
        self.pass(Point::BeforeFinish).await?;
        let done = self.inner.complete_multipart(path, id, parts).await?;
        self.plan.parts.lock().unwrap().remove(id);
        self.pass(Point::AfterFinish).await?;
        Ok(done)
    }

    async fn abort_multipart(&self, path: &Path, id: &String) -> Result<()> {
        self.inner.abort_multipart(path, id).await?;
        self.plan.parts.lock().unwrap().remove(id);
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass(Point::BeforeCreate).await?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if !options.head {
            self.pass(Point::BeforeRead).await?;
        }
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
