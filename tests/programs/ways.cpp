// Changes files in the ways that C++ programs have, one way a run: `ways_cpp WAY`, in the working directory, with
// `old.dat` of 10,000 bytes there. Exit 0: done. Exit 1: something failed. Exit 2: there is no such way.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fs = std::filesystem;

static void check(bool good, const char *what) {
    if (!good) throw std::runtime_error(what);
}

static void lines(std::ostream &out) {
    for (int i = 0; i < 500; i++) out << "line " << i << ' ' << i * 0.5 << '\n';
    check(bool(out), "writing");
}

static void ofstream() {
    std::ofstream out("f.dat", std::ios::binary);
    lines(out);
}

static void flushed() {
    std::ofstream out("f.dat");
    for (int i = 0; i < 300; i++) out << "line " << i << std::endl;
    out << std::unitbuf;
    lines(out);
}

static void append() {
    std::ofstream out("old.dat", std::ios::app);
    lines(out);
}

static void update() {
    std::fstream file("old.dat", std::ios::in | std::ios::out | std::ios::binary);
    std::vector<char> block(100);
    file.read(block.data(), 100);
    file.seekp(5000);
    file.write(block.data(), 100);
    file.seekg(10);
    file.read(block.data(), 100);
    file.seekp(0, std::ios::end);
    file.write(block.data(), 100);
    check(bool(file), "updating");
}

static void unbuffered() {
    std::ofstream out;
    out.rdbuf()->pubsetbuf(nullptr, 0);
    out.open("f.dat");
    lines(out);
}

// What a large write does inside libstdc++ is a writev of buffer and data.
static void large() {
    std::ofstream out("f.dat");
    out << "some that is in the buffer;";
    std::string data(100000, 'x');
    out.write(data.data(), std::streamsize(data.size()));
    check(bool(out), "writing");
}

static void redirected() {
    std::ofstream out("f.dat");
    auto before = std::cout.rdbuf(out.rdbuf());
    lines(std::cout);
    std::cout.rdbuf(before);
    std::cout << "and standard output\n";
}

static void thread() {
    std::ofstream out("f.dat");
    std::thread([&] { lines(out); }).join();
    lines(out);
}

static void copy_file() {
    fs::copy_file("old.dat", "f.dat");
    fs::copy_file("old.dat", "f.dat", fs::copy_options::overwrite_existing);
}

static void resize() {
    fs::resize_file("old.dat", 3000);
    fs::resize_file("old.dat", 6000);
}

static void rename_and_remove() {
    std::ofstream("new.tmp") << "what replaces it\n";
    fs::rename("new.tmp", "old.dat");
    std::ofstream("gone.dat") << "gone soon\n";
    fs::remove("gone.dat");
}

static void iterators() {
    std::ifstream in("old.dat", std::ios::binary);
    std::ofstream out("f.dat", std::ios::binary);
    std::copy(std::istreambuf_iterator<char>(in), {}, std::ostreambuf_iterator<char>(out));
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)();
    } ways[] = {{"ofstream", ofstream},     {"flushed", flushed}, {"append", append},
                {"update", update},         {"unbuffered", unbuffered}, {"large", large},
                {"redirected", redirected}, {"thread", thread},   {"copy_file", copy_file},
                {"resize", resize},         {"rename_and_remove", rename_and_remove}, {"iterators", iterators}};
    for (auto &way : ways)
        if (argc > 1 && std::strcmp(way.name, argv[1]) == 0) try {
                way.run();
                return 0;
            } catch (const std::exception &error) {
                std::cerr << argv[1] << ": " << error.what() << '\n';
                return 1;
            }
    return 2;
}
