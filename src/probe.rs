//! Hooks for testing the tests: coverage marks and planted bugs. Nothing of it exists outside test builds.
//!
//! A *mark* names a rare state (`recover.cut_tail`). The explorers count how often each was reached and fail if
//! one was reached too seldom: an explorer that cannot reach a state gives false comfort.
//!
//! A *planted bug* is a classic mistake kept beside the right code. One is switched on at run time, for this
//! thread, and an explorer must find it. One that survives is a bug in the explorer.

/// Counts one visit to the state `name`. Nothing without the feature `sim`.
#[inline]
pub(crate) fn reached(name: &'static str) {
    #[cfg(feature = "sim")]
    registry::count(name);
    #[cfg(not(feature = "sim"))]
    let _ = name;
}

/// Whether the mistake `name` is switched on. Always `false`, and compiled away, without `planted-bugs`.
#[inline]
pub(crate) fn planted(name: &'static str) -> bool {
    #[cfg(feature = "planted-bugs")]
    return registry::is_planted(name);
    #[cfg(not(feature = "planted-bugs"))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "sim")]
pub(crate) mod registry {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    thread_local! {
        static MARKS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
        #[cfg(feature = "planted-bugs")]
        static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
    }

    pub(crate) fn count(name: &'static str) {
        MARKS.with_borrow_mut(|marks| *marks.entry(name).or_default() += 1);
    }

    /// Takes what this thread has counted so far.
    pub(crate) fn take_marks() -> BTreeMap<&'static str, u64> {
        MARKS.take()
    }

    /// Switches one mistake on for this thread, or all off.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn plant(name: Option<&'static str>) {
        PLANTED.set(name);
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn is_planted(name: &'static str) -> bool {
        PLANTED.get() == Some(name)
    }
}
