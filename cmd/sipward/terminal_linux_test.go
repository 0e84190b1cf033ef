package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal is a terminal and the end that who sits at it has.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return master, terminal
}

// TestFlushAsks: who sits at a terminal.
func TestFlushAsks(t *testing.T) {
	for answer, want := range map[string]bool{"y": true, "Yes": true, "n": false, "": false, "yesterday": false} {
		var said bytes.Buffer
		master, terminal := openTerminal(t)
		if _, err := master.WriteString(answer + "\n"); err != nil {
			t.Fatal(err)
		}
		if yes, err := confirmed(terminal, &said, "Sure?"); yes != want || err != nil || said.String() != "Sure? [y/N] " {
			t.Errorf("%q: %v, %v, %q", answer, yes, err, said.String())
		}
	}
}

// TestImportTellsHowItGoesOn: at a terminal, when it takes long.
func TestImportTellsHowItGoesOn(t *testing.T) {
	if progress(new(bytes.Buffer), 10) != nil {
		t.Error("it writes to a pipe")
	}
	master, terminal := openTerminal(t)
	progressSince(terminal, 10, time.Now())(10) // says nothing
	tell := progressSince(terminal, 1000, time.Now().Add(-2*progressAfter))
	tell(500)
	tell(1000)
	const want = "\r500 of 1000 bans\r1000 of 1000 bans\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(master, got); err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
