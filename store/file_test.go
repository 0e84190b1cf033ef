package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func closes(t testing.TB, f *File) {
	t.Helper()
	if err := f.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// content is the calls that the file holds, as "1=a 2=b".
func content(t testing.TB, f *File) string {
	t.Helper()
	var all []string
	if err := f.Each(Calls, func(id uint64, state []byte) { all = append(all, fmt.Sprintf("%d=%s", id, state)) }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func path(t testing.TB) string { return filepath.Join(t.TempDir(), "state") }

func TestLastWordCountsAndOutlivesTheProcess(t *testing.T) {
	p := path(t)
	f := open(t, p)
	f.Put(Calls, 1, []byte("old"))
	f.Put(Calls, 2, []byte("b"))
	f.Put(Calls, 1, []byte("a"))
	f.Put(Calls, 3, []byte("c"))
	f.Put(Calls, 4, nil)
	f.Delete(Calls, 3)
	f.Delete(Calls, 99)
	secret := bytes.Clone(f.Secret())
	closes(t, f)
	f = open(t, p)
	defer closes(t, f)
	if got := content(t, f); got != "1=a 2=b 4=" {
		t.Errorf("the file holds %q", got)
	}
	if !bytes.Equal(f.Secret(), secret) || len(secret) != 32 {
		t.Errorf("secret %x, before %x", f.Secret(), secret)
	}
	f.Delete(Calls, 1)
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, f); got != "2=b 4=" {
		t.Errorf("the file holds %q", got)
	}
}

func TestWritesFourTimesASecondAndAsksBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := open(t, path(t))
		asked := 0
		f.Start(func() {
			asked++
			f.Put(Calls, 1, fmt.Append(nil, asked))
		})
		time.Sleep(time.Second + tick/2)
		synctest.Wait()
		if got := content(t, f); got != "1=4" {
			t.Errorf("after a second the file holds %q", got)
		}
		if err := f.Flush(); err != nil || asked != 5 {
			t.Errorf("flush: %v, asked %d times", err, asked)
		}
		closes(t, f)
		if err := f.Flush(); err == nil {
			t.Error("flush of a closed file")
		}
		if err := f.Close(t.Context()); err == nil {
			t.Error("closed twice")
		}
	})
}

func TestFileIsItsOwnersOnly(t *testing.T) {
	p := path(t)
	closes(t, open(t, p))
	info, err := os.Stat(p)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestErrorsSayWhatToDo: what stands in the way is named, and how to go on.
func TestErrorsSayWhatToDo(t *testing.T) {
	full := path(t)
	f := open(t, full)
	for i := range uint64(500) {
		f.Put(Calls, i, make([]byte, 300))
	}
	closes(t, f)
	whole, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	garbage := bytes.Clone(whole)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	pages := bytes.Clone(whole)
	for i := 2 * 4096; i < len(pages); i++ {
		pages[i] = 0xff
	}
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"garbage", garbage, "move it away"},
		{"text", []byte(strings.Repeat("these are no calls\n", 1000)), "move it away"},
		{"short", []byte("x"), "move it away"},
		{"cut off", whole[:len(whole)/3], "move it away"},
		{"damaged pages", pages, "move it away"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := path(t)
			if err := os.WriteFile(p, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := Open(p, nil)
			if err == nil { // the pages with calls are looked at later
				err = f.Each(Calls, func(uint64, []byte) {})
				_ = f.Close(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), p) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("another one's", func(t *testing.T) {
		p := path(t)
		db, err := bolt.Open(p, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("x")); return err })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(p, nil); !errors.Is(err, errForeign) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // the wait for the other one costs nothing
			p := path(t)
			defer closes(t, open(t, p))
			if _, err := Open(p, nil); err == nil || !strings.Contains(err.Error(), "another process has it") {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("no directory", func(t *testing.T) {
		if _, err := Open(filepath.Join(t.TempDir(), "no", "file"), nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

// TestWhatTheDiskRefusesWaits: a write that fails is told of once, and done when it can be.
func TestWhatTheDiskRefusesWaits(t *testing.T) {
	p := path(t)
	var told []error
	f, err := Open(p, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	tx, err := f.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	db := f.db
	f.db = &bolt.DB{} // not open
	f.Put(Calls, 1, []byte("old"))
	f.Put(Calls, 2, []byte("b"))
	f.complain(f.write())
	f.Put(Calls, 1, []byte("new"))
	f.complain(f.write())
	if len(told) != 1 || !strings.Contains(told[0].Error(), "2 changes wait") {
		t.Errorf("told: %v", told)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	f.db = db
	if err := f.Flush(); err != nil || f.bytes != 0 {
		t.Errorf("%v, %d bytes wait", err, f.bytes)
	}
	if got := content(t, f); got != "1=new 2=b" {
		t.Errorf("the file holds %q", got)
	}
	closes(t, f)
}

func TestWhatWaitsIsBounded(t *testing.T) {
	f := open(t, path(t))
	f.limit = 3 * (overhead + 100)
	for i := range uint64(5) {
		f.Put(Calls, i, make([]byte, 100))
	}
	f.Put(Calls, 1, []byte("shorter"))
	f.Delete(Calls, 2)
	f.Put(Calls, 3, make([]byte, 100))
	if f.Lost() != 2 || len(f.pending) != 4 {
		t.Errorf("%d lost, %d wait", f.Lost(), len(f.pending))
	}
	want := 0
	for _, c := range f.pending {
		want += c.size()
	}
	if f.bytes != want {
		t.Errorf("counted %d bytes of %d", f.bytes, want)
	}
	closes(t, f)
}

// TestKindsDoNotMeet: each kind has its own ids.
func TestKindsDoNotMeet(t *testing.T) {
	p := path(t)
	f := open(t, p)
	f.Put(Calls, 1, []byte("call"))
	f.Put(Bindings, 1, []byte("phone"))
	f.Put(Bindings, 2, []byte("other"))
	f.Delete(Calls, 2)
	closes(t, f)
	f = open(t, p)
	defer closes(t, f)
	if got := content(t, f); got != "1=call" {
		t.Errorf("the calls are %q", got)
	}
	var phones []string
	if err := f.Each(Bindings, func(id uint64, state []byte) { phones = append(phones, fmt.Sprintf("%d=%s", id, state)) }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(phones, " "); got != "1=phone 2=other" {
		t.Errorf("the bindings are %q", got)
	}
}

// TestFileOfBeforeTheBindings: it goes on, with its calls and its secret.
func TestFileOfBeforeTheBindings(t *testing.T) {
	p := path(t)
	f := open(t, p)
	f.Put(Calls, 1, []byte("a"))
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(buckets[Bindings]) }); err != nil {
		t.Fatal(err)
	}
	secret := bytes.Clone(f.Secret())
	closes(t, f)
	f = open(t, p)
	defer closes(t, f)
	f.Put(Bindings, 7, []byte("phone"))
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, f); got != "1=a" || !bytes.Equal(f.Secret(), secret) {
		t.Errorf("the calls are %q, the secret %x, before %x", got, f.Secret(), secret)
	}
}

// BenchmarkBatch is one write of 250 new calls and 250 that are over.
func BenchmarkBatch(b *testing.B) {
	f := open(b, path(b))
	state := make([]byte, 900)
	next := uint64(0)
	for b.Loop() {
		for range 250 {
			f.Put(Calls, next, state)
			if next >= 1000 {
				f.Delete(Calls, next-1000)
			}
			next++
		}
		if err := f.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	closes(b, f)
}
