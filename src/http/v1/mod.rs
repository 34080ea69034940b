//! `/v1`: one file for each group of endpoints.

use super::ApiRouter;

/// Every operation under `/v1`.
pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
}
