"""The original design, as a peer: a Flask app that answers with the same JSON as GET /api/servers/."""

import json
import os

from flask import Flask, jsonify


def create_app():
    app = Flask(__name__)

    @app.get("/api/servers/")
    def show():
        # The original reads the connection file at each request.
        with open(os.environ["CONNECTION_FILE"], encoding="utf-8") as file:
            return jsonify(json.load(file))

    @app.get("/health/live")
    def live():
        return jsonify(message="alive")

    return app
