// Package outfile writes lines to a file, stdout or stderr in the background, so that a slow disk delays nobody.
//
// A caller copies its finished line into a buffer under a short lock. A goroutine writes the buffer out 50 ms after its
// first line, or at once when it is half full; without lines nothing wakes up. A write is of whole lines, after
// a refused one of its rest. When the buffer is full, lines are dropped and counted.
//
// What becomes of lines that the output refuses (a full disk, say) is the owner's choice. Without Keep they are lost and
// counted, which suits a log: it must not grow for a full disk. With Keep they wait, at most a buffer full of them, and
// are tried again each second; the next output gets them if there is one before. No line is written twice, and one that
// is split between two tries is whole in the file.
//
// A file is opened to append, mode 0640. If it ends in the middle of a line, because the machine lost power say, this
// line is ended first.
package outfile
