package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestTheSectionOfASipwiseLoads: as the handbook prints it, and as it stands in its config.yml.
func TestTheSectionOfASipwiseLoads(t *testing.T) {
	const handbook = `
security:
  dos_ban_enable: 'yes'
  dos_ban_time: '3600'
  dos_reqs_density_per_unit: '50'
  dos_sampling_time_unit: '2'
  failed_auth_attempts: '3'
  failed_auth_ban_enable: 'yes'
  failed_auth_ban_time: '3600'
`
	const agents = `
  block_useragents:
    action: reject
    block_absent: no
    block_empty: no
    enable: yes
    mode: blacklist
    ua_patterns:
    - friendly-scanner
    - sipcli
`
	want := Default().Security
	for _, text := range []string{handbook, handbook + agents} {
		c, warnings, err := Load(Options{Path: "sipward.yaml", Data: []byte(small + text), Addresses: host[:1]})
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		if !reflect.DeepEqual(c.Security, want) {
			t.Errorf("got  %+v\nwant %+v", c.Security, want)
		}
		want.BlockUserAgents.Action, want.BlockUserAgents.UAPatterns = "reject", []string{"friendly-scanner", "sipcli"}
	}
}

func TestModesInEverySpelling(t *testing.T) {
	for word, want := range map[string]Mode{
		"yes": Enforce, "'yes'": Enforce, "true": Enforce, "On": Enforce, "enforce": Enforce, `"Enforce"`: Enforce,
		"observe": Observe, "'OBSERVE'": Observe, "no": Off, "'no'": Off, "off": Off, "False": Off, "~": Enforce,
	} {
		if c := load(t, small+"security: { dos_ban_enable: "+word+" }\n"); c.Security.DoSBanEnable != want {
			t.Errorf("%s: got %v", word, c.Security.DoSBanEnable)
		}
	}
}

// TestAModeIsShownAsTheFileHasIt: yes in the table of keys and in the template, the name of the mode in what is in force.
func TestAModeIsShownAsTheFileHasIt(t *testing.T) {
	i := slices.IndexFunc(Keys(), func(k Key) bool { return k.Path == "security.loop_enable" })
	if k := Keys()[i]; k.Type != "yes/observe/no" || k.Default != "yes" {
		t.Errorf("got %+v", k)
	}
	for word, want := range map[string]string{"yes": "enforce", "observe": "observe", "no": "off"} {
		c := load(t, small+"security: { loop_enable: "+word+" }\n")
		if got := show(reflect.ValueOf(c.Security.LoopEnable)); got != word {
			t.Errorf("%s: shown as %s", word, got)
		}
		rows := Effective(c)
		i := slices.IndexFunc(rows, func(r Row) bool { return r.Key == "security.loop_enable" })
		if rows[i].Value != want {
			t.Errorf("%s: in force %s", word, rows[i].Value)
		}
	}
}

// TestOverridesOfSecurity: the environment and --set reach single keys of the section.
func TestOverridesOfSecurity(t *testing.T) {
	c, _, err := Load(Options{
		Path: "sipward.yaml", Data: []byte(small), Addresses: host,
		Env:  []string{"SIPWARD_SECURITY__TRUSTED=192.0.2.0/24, 2001:db8::/32", "SIPWARD_SECURITY__DOS_BAN_ENABLE=observe"},
		Sets: []string{"security.block_useragents.ua_patterns=a,b", "security.loop_exempt=[]"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Security
	if len(s.Trusted) != 2 || s.DoSBanEnable != Observe || !slices.Equal(s.BlockUserAgents.UAPatterns, []string{"a", "b"}) || len(s.LoopExempt) > 0 {
		t.Errorf("got %+v", s)
	}
}

func TestALongListOfTrustedNetworksOnlyBegins(t *testing.T) {
	c := load(t, small)
	c.Security.Trusted = slices.Repeat([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, 20)
	var got []Row
	for _, r := range Effective(c) {
		if r.Name == "trusted" {
			got = append(got, r)
		}
	}
	if len(got) != 18 || got[0] != (Row{"trusted", "backends and own addresses", "security.trusted"}) ||
		got[16] != (Row{"trusted", "192.0.2.0/24", "security.trusted[15]"}) || got[17] != (Row{"trusted", "4 more", "security.trusted"}) {
		t.Errorf("got %v", got)
	}
}
