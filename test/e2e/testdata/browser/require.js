// Loads CommonJS modules from /node_modules as npm installed them, so that the test needs no bundler.
'use strict';

const packages = {
	jssip: 'jssip/lib/JsSIP.js',
	debug: 'debug/src/browser.js',
	events: 'events/events.js',
	ms: 'ms/index.js',
	'sdp-transform': 'sdp-transform/lib/index.js',
};
const loaded = new Map();

function require(name) {
	return load(new URL('/node_modules/' + packages[name], location));
}

function load(url) {
	if (!/\.js(on)?$/.test(url.pathname)) {
		url.pathname += '.js';
	}
	const known = loaded.get(url.pathname);
	if (known) {
		return known.exports;
	}
	const request = new XMLHttpRequest();
	request.open('GET', url, false); // require returns what it has loaded
	request.send();
	if (request.status !== 200) {
		throw new Error(`${url.pathname}: ${request.status}`);
	}
	const module = { exports: {} };
	loaded.set(url.pathname, module);
	if (url.pathname.endsWith('.json')) {
		module.exports = JSON.parse(request.responseText);
		return module.exports;
	}
	const near = name => (packages[name] ? require(name) : load(new URL(name, url)));
	new Function('module', 'exports', 'require', `${request.responseText}\n//# sourceURL=${url.pathname}`)(module, module.exports, near);
	return module.exports;
}
