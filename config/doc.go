// Package config is the one place that knows the keys of sipward's configuration: their names, meaning, defaults and
// bounds, how layers of them are put together and what is wrong with them.
//
// A configuration is made of four layers, each laid over the one before: defaults, the YAML file, the environment
// (SIPWARD_ and the key's path in capitals, levels joined by two underscores: SIPWARD_LOG__LEVEL) and the command line
// (--set log.level=info). Load reads them strictly and reports everything that is wrong in one run, each problem with
// the place it comes from:
//
//	sipward.yaml:12:5: pools.pbx.backends[1].addres: unknown key (did you mean "address"?)
//
// Nothing else of sipward is imported here; the other packages receive their own section as a value.
package config
