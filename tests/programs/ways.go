// Changes files in the ways that Go programs have, one way a run: `ways WAY`, in the working directory, with `old.dat` of
// 10,000 bytes there. Go makes its system calls itself. Exit 0: done. Exit 2: there is no such way.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"syscall"
)

const text = "The quick brown fox jumps over the lazy dog\n"

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(name string, flags int) *os.File {
	file, err := os.OpenFile(name, flags, 0o644)
	check(err)
	return file
}

func write() {
	check(os.WriteFile("f.dat", []byte(text), 0o644))
	file := open("old.dat", os.O_RDWR)
	_, err := file.WriteAt([]byte(text), 5000)
	check(err)
	check(file.Truncate(9000))
	check(file.Close())
	file = open("f.dat", os.O_WRONLY|os.O_APPEND)
	out := bufio.NewWriter(file)
	for i := 0; i < 1000; i++ {
		fmt.Fprintf(out, "line %d\n", i)
	}
	check(out.Flush())
	check(file.Close())
}

func copies() {
	from, to := open("old.dat", os.O_RDONLY), open("f.dat", os.O_RDWR|os.O_CREATE)
	_, err := io.Copy(to, from)
	check(err)
	check(to.Close())
}

func mapped() {
	file := open("old.dat", os.O_RDWR)
	memory, err := syscall.Mmap(int(file.Fd()), 0, 10000, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err)
	copy(memory[4000:], text)
	check(syscall.Munmap(memory))
}

func names() {
	check(os.WriteFile("new.tmp", []byte(text), 0o644))
	check(os.Rename("new.tmp", "old.dat"))
	check(os.WriteFile("gone.dat", []byte(text), 0o644))
	check(os.Remove("gone.dat"))
}

func main() {
	ways := map[string]func(){"write": write, "copies": copies, "mapped": mapped, "names": names}
	if len(os.Args) < 2 || ways[os.Args[1]] == nil {
		os.Exit(2)
	}
	ways[os.Args[1]]()
}
