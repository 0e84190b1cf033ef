package outfile

import (
	"io"
	"os"
)

// output is where lines go.
type output struct {
	io.Writer
	file *os.File // nil for what is not ours to close
}

func (o *output) close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// open opens stdout, stderr or a file to append to, which group and owner may read.
func (o *Options) open(name string, isOurs func(os.FileInfo) bool) (*output, error) {
	switch name {
	case "stdout":
		return &output{Writer: o.Stdout}, nil
	case "stderr":
		return &output{Writer: o.Stderr}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	if err := o.begin(f, isOurs); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &output{Writer: f, file: f}, nil
}

// begin makes sure that the next byte of a file begins a line, and that an empty file has its head. A file that is
// open here already has both; it may only look torn while a line is being written.
func (o *Options) begin(f *os.File, isOurs func(os.FileInfo) bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	lead := ""
	switch {
	case !info.Mode().IsRegular(): // a pipe or a device
	case isOurs(info):
	case info.Size() == 0:
		lead = o.Head
	case isTorn(f.Name(), info.Size()):
		lead = "\n"
	}
	if lead == "" {
		return nil
	}
	_, err = f.WriteString(lead)
	return err
}

// isTorn says that the last line of a file has no end. A file that may be written only counts as whole.
func isTorn(name string, size int64) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], size-1)
	return err == nil && last[0] != '\n'
}
