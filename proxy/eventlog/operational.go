package eventlog

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Bounds of one operational line in the format kamailio. Stack traces of a recovered panic are meant to fit.
const (
	maxMessage = 1024
	maxField   = 8192
)

// operational receives zerolog's finished JSON, filters it by the level of the moment and writes it in the format of
// the moment. Such lines are rare, so translating them may cost something.
type operational struct{ l *Log }

// Write takes lines without a level: notices.
func (o operational) Write(p []byte) (int, error) { return o.WriteLevel(zerolog.NoLevel, p) }

// WriteLevel implements zerolog.LevelWriter.
func (o operational) WriteLevel(zl zerolog.Level, p []byte) (int, error) {
	s := o.l.settings.Load()
	rank, name, always := rankOf(zl)
	if rank > s.level && !always {
		return len(p), nil
	}
	if s.isJSON {
		_, _ = o.l.writer.Write(object(p, zl))
	} else {
		_, _ = o.l.writer.Write(o.l.text(name, p))
	}
	if zl == zerolog.FatalLevel || zl == zerolog.PanicLevel {
		o.l.Flush() // zerolog ends the process next
	}
	return len(p), nil
}

// rankOf translates zerolog's levels into ours. Lines of level info are written always, see the package's doc.
func rankOf(zl zerolog.Level) (rank level, name string, always bool) {
	switch zl {
	case zerolog.TraceLevel, zerolog.DebugLevel:
		return levelDebug, "DEBUG: ", false
	case zerolog.InfoLevel:
		return levelInfo, "INFO: ", true
	case zerolog.WarnLevel:
		return levelWarning, "WARNING: ", false
	case zerolog.ErrorLevel:
		return levelError, "ERROR: ", false
	case zerolog.FatalLevel, zerolog.PanicLevel:
		return levelError, "CRITICAL: ", true
	default:
		return levelNotice, "NOTICE: ", false
	}
}

// object puts the time in front of zerolog's object and names the level as the configuration does.
func object(p []byte, zl zerolog.Level) []byte {
	b := time.Now().AppendFormat([]byte(`{"time":"`), timeFormat)
	switch {
	case zl == zerolog.WarnLevel:
		p = bytes.Replace(p, []byte(`"level":"warn"`), []byte(`"level":"warning"`), 1)
	case zl == zerolog.NoLevel:
		b = append(b, `","level":"notice`...)
	}
	rest := bytes.TrimPrefix(p, []byte("{"))
	if bytes.HasPrefix(rest, []byte("}")) {
		return append(append(b, '"'), rest...)
	}
	return append(append(b, `",`...), rest...)
}

// text turns zerolog's object into `script: message key=value …` after a prefix, fields in their order.
func (l *Log) text(level string, p []byte) []byte {
	var text string
	var fields []byte
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	_, err := d.Token() // {
	for err == nil && d.More() {
		var key json.Token
		var value json.RawMessage
		if key, err = d.Token(); err != nil {
			break
		}
		if err = d.Decode(&value); err != nil {
			break
		}
		name, _ := key.(string)
		plain := string(value)
		if len(value) > 0 && value[0] == '"' {
			_ = json.Unmarshal(value, &plain)
		}
		switch name {
		case zerolog.LevelFieldName:
		case zerolog.MessageFieldName:
			text = plain
		default:
			fields = appendField(fields, name, plain)
		}
	}
	b := appendEscaped(l.begins(nil, level, ""), text, message, maxMessage)
	if err != nil {
		fields = appendField(fields, "log_error", err.Error())
	}
	if text == "" && len(fields) > 0 {
		fields = fields[1:]
	}
	return append(append(b, fields...), '\n')
}

// appendField appends ` key=value`, in quotes where the value has spaces or is empty.
func appendField(b []byte, key, value string) []byte {
	b = append(b, ' ')
	b = appendEscaped(b, key, token|reason, maxValue)
	b = append(b, '=')
	if value == "" || strings.ContainsAny(value, " '\"") {
		b = append(b, '\'')
		b = appendEscaped(b, value, quoted, maxField)
		return append(b, '\'')
	}
	return appendEscaped(b, value, token, maxField)
}
