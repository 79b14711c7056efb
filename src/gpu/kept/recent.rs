//! A bounded cache.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// At most twice `most` values by key, in two generations. If a value is not asked for while a whole generation of `most`
/// values is filled, it is dropped.
pub(in crate::gpu) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    most: usize,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub(in crate::gpu) fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), most }
    }

    pub(in crate::gpu) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(in crate::gpu) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(in crate::gpu) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.young.retain(|key, _| keep(key));
        self.old.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let mut recent = Recent::new(3);
        for at in 0..100 {
            recent.insert(vec![at], at);
            assert_eq!(recent.get(&[0][..]), Some(0), "after {at}");
            assert!(recent.young.len() + recent.old.len() <= 6);
        }
        assert_eq!(recent.get(&[99][..]), Some(99));
        assert_eq!(recent.get(&[1][..]), None);
    }
}
