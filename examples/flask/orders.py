"""A Flask application that sends mail with Flask-Mail: an order is confirmed, with the invoice attached."""

from flask import Flask, request
from flask_mail import Mail, Message

mail = Mail()


def create_app(**config: object) -> Flask:
    """Return the application."""
    app = Flask(__name__)
    app.config.update(MAIL_DEFAULT_SENDER="orders@example.org", **config)
    mail.init_app(app)

    @app.post("/orders")
    def order() -> tuple[str, int]:
        wanted = request.get_json()
        message = Message(f"Your order of {wanted['article']}", recipients=[wanted["email"]])
        message.html = "<p>Thank you. <a href='https://shop.example/orders/1'>Follow your order</a></p>"
        message.attach("invoice.csv", "text/csv", f"{wanted['article']},{wanted['price']}\n")
        mail.send(message)
        return "", 201

    return app
