// One process that produces and serves, as an application does: node resumable_alone.js PORT, with REDIS_URL set.
"use strict";
require("./resumable_stream.js");
require("./resumable_producer.js");
