//! Cursor pages over things ordered by id, newest first.

use uuid::Uuid;

/// Which page of a list: up to `size` items with ids below `before`.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Items on the page, 1 to 1000.
    pub size: u32,
    /// Only items with smaller ids.
    pub before: Option<Uuid>,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Paged<T, Cursor = Uuid> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins: below this id, or behind this place; `None` on the last page.
    pub next: Option<Cursor>,
}

impl PageRequest {
    /// Rows to ask the database for: one more than the page holds tells whether another page follows.
    pub fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts rows fetched with [`PageRequest::limit`] into a page; `id_of` is what the list is ordered by.
    pub fn cut<T>(&self, mut rows: Vec<T>, id_of: impl Fn(&T) -> Uuid) -> Paged<T> {
        let more = rows.len() > self.size as usize;
        rows.truncate(self.size as usize);
        let next = if more { rows.last().map(id_of) } else { None };
        Paged { items: rows, next }
    }
}
