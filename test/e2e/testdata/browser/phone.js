// A telephone of JsSIP as a page. The test steers it through `phone` and waits for its events.
'use strict';

const JsSIP = require('jssip');

const sockets = [];
window.WebSocket = class extends WebSocket {
	constructor(...args) {
		super(...args);
		sockets.push(this);
	}
};

const phone = {
	ua: null,
	session: null, // the latest call
	log: [], // every event, for the report of a failed test
	unread: [],
	waiting: null,
	sockets,

	note(name, data = {}) {
		const event = { name, ...data };
		this.log.push(event);
		this.unread.push(event);
		if (this.waiting) {
			this.waiting();
		}
	},

	// until resolves with the next event of one of these names; events before it are passed over.
	async until(...names) {
		for (;;) {
			while (this.unread.length > 0) {
				const event = this.unread.shift();
				if (names.includes(event.name)) {
					return event;
				}
			}
			await new Promise(resolve => (this.waiting = resolve));
			this.waiting = null;
		}
	},

	forget() {
		this.unread.length = 0;
	},

	start({ url, uri, password, instance }) {
		const ua = new JsSIP.UA({
			sockets: [new JsSIP.WebSocketInterface(url)],
			uri,
			password,
			instance_id: instance,
			register_expires: 300,
			connection_recovery_min_interval: 1,
			user_agent: 'page',
		});
		for (const name of ['connected', 'disconnected', 'registered', 'unregistered', 'registrationFailed']) {
			ua.on(name, e => this.note(name, { status: e?.response?.status_code ?? 0, code: e?.code ?? 0 }));
		}
		ua.on('newRTCSession', ({ originator, session, request }) => {
			this.follow(session);
			if (originator === 'remote') {
				this.note('incoming', { from: session.remote_identity.uri.toString(), ruri: request.ruri.toString() });
			}
		});
		this.ua = ua;
		ua.start();
	},

	follow(session) {
		this.session = session;
		const media = pc => pc.addEventListener('connectionstatechange', () => this.note('media', { state: pc.connectionState }));
		if (session.connection) {
			media(session.connection);
		} else {
			session.on('peerconnection', e => media(e.peerconnection));
		}
		for (const name of ['progress', 'accepted', 'confirmed', 'ended', 'failed']) {
			session.on(name, e => this.note(name, { originator: e.originator, cause: e.cause ?? '', status: e.message?.status_code ?? 0 }));
		}
		for (const name of ['peerconnection:createofferfailed', 'peerconnection:setlocaldescriptionfailed', 'peerconnection:setremotedescriptionfailed', 'getusermediafailed']) {
			session.on(name, e => this.note(name, { error: String(e) }));
		}
	},

	media: { mediaConstraints: { audio: true, video: false }, pcConfig: { iceServers: [] } },

	call(target) {
		this.ua.call(target, this.media);
	},
	answer() {
		this.session.answer(this.media);
	},
	hangup() {
		this.session.terminate();
	},
	reject(status) {
		this.session.terminate({ status_code: status });
	},
	// lose ends the connection behind JsSIP's back.
	lose() {
		this.sockets.at(-1).close();
	},
	unregister() {
		this.ua.unregister();
	},
};
