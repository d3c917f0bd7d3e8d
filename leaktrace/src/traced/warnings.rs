//! Sentences for the reader of reports, of a number that does not grow with that of the processes.

/// Distinct ones that are kept. What else there is to say of a thousand processes is told with `-v`.
const KEPT_MAX: usize = 20;

/// What went wrong, in the order in which it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    kept: Vec<String>,
    /// Those beyond the bound.
    more: u64,
}

impl Warnings {
    /// Adds one, unless it has been said before.
    pub fn push(&mut self, warning: String) {
        if self.kept.contains(&warning) {
            return;
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.push(warning);
        } else {
            tracing::info!("{warning}");
            self.more += 1;
        }
    }

    /// All that are kept, and how many are not.
    pub fn list(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| {
            format!(
                "{} more such {}; -v tells each of them as it comes",
                self.more,
                if self.more == 1 { "warning" } else { "warnings" }
            )
        });
        self.kept.iter().cloned().chain(more).collect()
    }
}

impl FromIterator<String> for Warnings {
    fn from_iter<T: IntoIterator<Item = String>>(warnings: T) -> Self {
        let mut all = Self::default();
        warnings.into_iter().for_each(|warning| all.push(warning));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_and_beyond_the_bound_they_are_counted() {
        let mut warnings: Warnings = ["no room".to_owned(), "no room".to_owned()].into_iter().collect();
        assert_eq!(warnings.list(), ["no room"]);
        for pid in 0..2 * KEPT_MAX {
            warnings.push(format!("process {pid}"));
        }
        let list = warnings.list();
        assert_eq!(list.len(), KEPT_MAX + 1);
        assert!(list[KEPT_MAX].starts_with("21 more such warnings; "), "{list:?}");
    }
}
