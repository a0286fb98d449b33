//! Files that are mapped into memory and change without any call.

mod common;

use common::Stand;
use counterfoil_lane::frame::Kind;

#[test]
fn a_shared_mapping_is_told_from_its_beginning_to_its_end() {
    Stand::run_in_both_modes(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 40960) == 0);
            char *at = mmap(NULL, 40000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            CHECK(at != MAP_FAILED);
            char *private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            CHECK(private != MAP_FAILED);
            // It outlives the descriptor.
            CHECK(close(fd) == 0);
            strcpy(at + 5000, "hello");
            strcpy(private, "not in the file");
            CHECK(msync(at + 4096, 100, MS_SYNC) == 0);
            strcpy(at + 100, "again");
            CHECK(msync(at, 4096, MS_ASYNC) == 0 && msync(at, 4096, MS_INVALIDATE) == 0);
            CHECK(munmap(private, 4096) == 0);
            CHECK(munmap(at, 40000) == 0);
            CHECK(munmap(at, 40000) == 0);
            void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(memory != MAP_FAILED && munmap(memory, 1 << 20) == 0);
            CHECK(munmap((void *)1, 1) == -1 && errno == EINVAL);
            CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED && errno == EBADF);
            CHECK(mmap(NULL, 0, PROT_READ, MAP_SHARED, 0, 0) == MAP_FAILED && errno == EINVAL);
            CHECK(msync((void *)4096, 4096, MS_SYNC) == -1 && errno == ENOMEM);
            return 0;
        }"#,
        |stand, _| {
            assert_eq!(
                stand.story(),
                [
                    "a open 0 created",
                    "a truncate 40960",
                    "a map 0+40960",
                    "a close",
                    "a reread 4096+4096",
                    "a sync",
                    "a reread 0+4096",
                    "a unmap 0+40960",
                ]
            );
            stand.assert_no_gaps();
        },
    );
}

#[test]
fn what_is_mapped_for_reading_counts_from_when_it_may_be_written_to() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 8192) == 0);
            char *at = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
            char *never = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096);
            CHECK(at != MAP_FAILED && never != MAP_FAILED);
            CHECK(msync(at, 4096, MS_SYNC) == 0);
            CHECK(mprotect(at + 4096, 4096, PROT_READ | PROT_WRITE) == 0);
            CHECK(mprotect(at, 4096, PROT_READ | PROT_WRITE) == 0);
            CHECK(mprotect(at, 8192, PROT_READ) == 0);
            CHECK(munmap(at, 8192) == 0 && munmap(never, 4096) == 0);
            int other = open("b", O_RDONLY | O_CREAT, 0644);
            CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, other, 0) != MAP_FAILED);
            int skipped = open("c.skip", O_RDWR | O_CREAT, 0644);
            CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, skipped, 0) != MAP_FAILED);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a truncate 8192",
            "a map 0+8192",
            "a unmap 0+8192",
        ]
    );
}

/// How many mappings a reader counts, as the sequencer does.
fn counted(stand: &Stand, file: &str) -> i64 {
    stand
        .frames()
        .iter()
        .filter(|frame| frame.file == file)
        .map(|frame| match frame.kind {
            Kind::Map => 1,
            Kind::Unmap => -1,
            _ => 0,
        })
        .sum()
}

#[test]
fn parts_of_a_mapping_end_one_by_one() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 40960) == 0);
            char *at = mmap(NULL, 40960, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0);
            CHECK(at != MAP_FAILED);
            CHECK(munmap(at + 8192, 4096) == 0);
            // Something else takes a place in the middle.
            CHECK(mmap(at + 16384, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 16384);
            CHECK(munmap(at, 8192) == 0);
            CHECK(munmap(at, 40960) == 0);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a truncate 40960",
            "a map 0+40960",
            "a map 8192+4096",
            "a reread 8192+4096",
            "a map 16384+4096",
            "a reread 16384+4096",
            "a unmap 0+8192",
            "a unmap 12288+4096",
            "a unmap 20480+20480",
        ]
    );
    assert_eq!(counted(&stand, "a"), 0);
}

#[test]
fn mappings_that_move_and_grow_are_followed() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 1 << 20) == 0);
            char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
            CHECK(at != MAP_FAILED);
            char *grown = mremap(at, 8192, 65536, MREMAP_MAYMOVE);
            CHECK(grown != MAP_FAILED);
            char *place = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(place != MAP_FAILED);
            CHECK(mremap(grown, 65536, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
            CHECK(mremap(place, 4096, 1 << 30, 0) == MAP_FAILED && errno == ENOMEM);
            char *twice = mremap(place, 0, 4096, MREMAP_MAYMOVE);
            CHECK(twice != MAP_FAILED && twice != place);
            twice[10] = 'x';
            CHECK(munmap(place, 4096) == 0);
            CHECK(munmap(twice, 4096) == 0);
            return 0;
        }"#,
    );
    let story = stand.story();
    assert_eq!(
        story[2..],
        [
            "a map 4096+8192",
            "a map 4096+65536",
            "a unmap 4096+8192",
            "a map 4096+4096",
            "a unmap 4096+65536",
            "a map 4096+4096",
            "a unmap 4096+4096",
            "a unmap 4096+4096",
        ]
    );
}

#[test]
fn a_forked_child_has_the_mappings_of_its_parent() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 4096) == 0);
            char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            CHECK(at != MAP_FAILED && close(fd) == 0);
            int child = fork();
            // It makes no captured call at all.
            if (child == 0) { strcpy(at, "from the child"); _exit(0); }
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
            if (vfork() == 0) _exit(0);
            CHECK(munmap(at, 4096) == 0);
            return 0;
        }"#,
    );
    let frames = stand.frames();
    let maps: Vec<_> = frames.iter().filter(|f| f.kind == Kind::Map).collect();
    assert_eq!(maps.len(), 2);
    assert_ne!(maps[0].process, maps[1].process);
    let unmaps: Vec<_> = frames.iter().filter(|f| f.kind == Kind::Unmap).collect();
    assert_eq!(unmaps.len(), 1);
    assert_eq!(unmaps[0].process, maps[0].process);
}

#[test]
fn more_mappings_than_the_table_has_are_never_taken_back() {
    let stand = Stand::new();
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 4096) == 0);
            static char *at[5000];
            for (int n = 0; n < 5000; n++) {
                at[n] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                CHECK(at[n] != MAP_FAILED);
            }
            for (int n = 0; n < 5000; n++) CHECK(munmap(at[n], 4096) == 0);
            return 0;
        }"#,
    );
    assert_eq!(counted(&stand, "a"), 5000 - 4096);
    stand.assert_no_gaps();
}

#[test]
fn threads_that_map_and_unmap_are_not_mistaken_for_each_other() {
    let stand = Stand::new();
    stand.run(
        r#"
        int fd;
        void *work(void *argument) {
            for (int n = 0; n < 300; n++) {
                size_t len = 4096 * (1 + n % 5);
                char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
                CHECK(at != MAP_FAILED);
                at[n] = n;
                void *other = malloc(200000);
                CHECK(munmap(at, len) == 0);
                free(other);
            }
            return NULL;
        }
        int main(void) {
            fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 40960) == 0);
            pthread_t threads[8];
            for (int n = 0; n < 8; n++) CHECK(pthread_create(&threads[n], NULL, work, NULL) == 0);
            for (int n = 0; n < 8; n++) CHECK(pthread_join(threads[n], NULL) == 0);
            return 0;
        }"#,
    );
    assert_eq!(counted(&stand, "a"), 0);
    let maps = stand
        .frames()
        .iter()
        .filter(|f| f.kind == Kind::Map)
        .count();
    assert_eq!(maps, 2400);
    stand.assert_no_gaps();
}

#[test]
fn to_a_replicator_that_knows_no_mappings_they_are_changes() {
    let stand = Stand::new();
    stand.set_revision(0);
    stand.run(
        r#"
        int main(void) {
            int fd = open("a", O_RDWR | O_CREAT, 0644);
            CHECK(ftruncate(fd, 4096) == 0);
            char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            CHECK(at != MAP_FAILED && munmap(at, 4096) == 0);
            CHECK(fchmod(fd, 0600) == 0 && chmod("a", 0640) == 0);
            CHECK(link("a", "b") == 0);
            return 0;
        }"#,
    );
    assert_eq!(
        stand.story(),
        [
            "a open 0 created",
            "a truncate 4096",
            "a reread 0+4096",
            "a reread 0+4096",
            "b reread 0+-1",
        ]
    );
}
