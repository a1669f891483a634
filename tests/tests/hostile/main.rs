//! What a stranger on the network sends must move nothing.

mod floods;
mod forgeries;

use carp_tests::Node;
use carp_tests::adverts::Election;

/// Better than any agent here: whoever believes it yields.
const BEST: Election = Election { advbase: 0, advskew: 1, demote: 0 };

/// Asserts that a pair is as it was when both had started.
fn assert_unmoved(master: &Node<'_>, backup: &Node<'_>) {
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"], "{:#?}", master.transitions());
    assert_eq!(backup.changes(), ["INIT -> BACKUP"], "{:#?}", backup.transitions());
}
