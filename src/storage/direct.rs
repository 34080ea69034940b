//! Parts that clients send to the store themselves, by URLs that the server signs one by one.

use std::{sync::Arc, time::Duration};

use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;
use url::Url;

use super::{ObjectKey, PartPlace, StorageError, Store};

/// A list of parts holds no keys or values of any length: more than this is not one.
const MAX_LIST_BYTES: usize = 4 << 20;
/// Time for one request of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// What signs, and what asks for lists.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    signer: Arc<dyn Signer>,
    http: reqwest::Client,
}

impl Direct {
    pub(super) fn new(signer: Arc<dyn Signer>) -> Self {
        Self { signer, http: reqwest::Client::new() }
    }
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPart {
    /// Number, from 1.
    pub number: u64,
    /// Size.
    pub size_bytes: u64,
    /// What the store calls it; some stores leave it out of their lists.
    pub id: Option<String>,
}

/// A page of the store's list of parts, as S3 writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PartList {
    #[serde(default, rename = "Part")]
    parts: Vec<ListedPart>,
    #[serde(default)]
    is_truncated: bool,
    next_part_number_marker: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedPart {
    part_number: u64,
    size: u64,
    #[serde(rename = "ETag")]
    etag: Option<String>,
}

impl Store {
    /// Whether clients can be sent to the store.
    pub fn signs_urls(&self) -> bool {
        self.direct.is_some()
    }

    /// A URL by which anybody may PUT this part for so long; `None` where the store does not sign.
    pub async fn sign_part(&self, place: PartPlace<'_>, valid: Duration) -> Result<Option<Url>, StorageError> {
        let Some(direct) = &self.direct else {
            return Ok(None);
        };
        let query = [("partNumber", place.number.to_string()), ("uploadId", place.store_upload_id.to_owned())];
        let options = SignedUrlOptions::default().with_query(query);
        let signed = direct.signer.signed_url_opts(http::Method::PUT, &place.key.path(), valid, &options).await;
        Ok(Some(signed?))
    }

    /// Parts of an upload that the store has, in order; none where the store does not sign.
    pub async fn list_stored_parts(
        &self,
        key: &ObjectKey,
        store_upload_id: &str,
    ) -> Result<Vec<StoredPart>, StorageError> {
        let Some(direct) = &self.direct else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = direct.list_page(key, store_upload_id, marker.take()).await?;
            found.extend(page.parts.into_iter().map(|part| StoredPart {
                number: part.part_number,
                size_bytes: part.size,
                id: part.etag,
            }));
            marker = page.next_part_number_marker.filter(|_| page.is_truncated);
            if marker.is_none() {
                found.sort_by_key(|part| part.number);
                return Ok(found);
            }
        }
    }
}

impl Direct {
    async fn list_page(
        &self,
        key: &ObjectKey,
        store_upload_id: &str,
        marker: Option<String>,
    ) -> Result<PartList, StorageError> {
        let upload = ("uploadId", store_upload_id.to_owned());
        let query = [upload].into_iter().chain(marker.map(|marker| ("part-number-marker", marker)));
        let options = SignedUrlOptions::default().with_query(query);
        let url = self.signer.signed_url_opts(http::Method::GET, &key.path(), LIST_TIMEOUT, &options).await?;
        let answer = self.http.get(url).timeout(LIST_TIMEOUT).send().await.map_err(failed)?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Err(StorageError::Missing { key: key.to_string() });
        }
        let text = answer.error_for_status().map_err(failed)?.text().await.map_err(failed)?;
        if text.len() > MAX_LIST_BYTES {
            return Err(failed("a list of parts of several megabytes"));
        }
        quick_xml::de::from_str(&text).map_err(failed)
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StorageError {
    StorageError::Backend(object_store::Error::Generic { store: "S3", source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_parts_is_read_as_s3_writes_it() {
        let list: PartList = quick_xml::de::from_str(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><Key>k</Key>
              <UploadId>u</UploadId><PartNumberMarker>1</PartNumberMarker>
              <NextPartNumberMarker>3</NextPartNumberMarker><MaxParts>2</MaxParts><IsTruncated>true</IsTruncated>
              <Part><PartNumber>2</PartNumber><LastModified>2026-01-01T00:00:00Z</LastModified>
                <ETag>&quot;7778aef83f66abc1fa1e8477f296d394&quot;</ETag><Size>10485760</Size></Part>
              <Part><PartNumber>3</PartNumber><Size>7</Size></Part>
            </ListPartsResult>"#,
        )
        .unwrap();
        assert!(list.is_truncated);
        assert_eq!(list.next_part_number_marker.as_deref(), Some("3"));
        assert_eq!(list.parts[0].etag.as_deref(), Some("\"7778aef83f66abc1fa1e8477f296d394\""));
        assert_eq!((list.parts[1].part_number, list.parts[1].size), (3, 7));
    }

    #[test]
    fn an_empty_list_has_no_parts() {
        let list: PartList =
            quick_xml::de::from_str("<ListPartsResult><UploadId>u</UploadId></ListPartsResult>").unwrap();
        assert!(list.parts.is_empty() && !list.is_truncated);
    }
}
