"""Compare programs and measure this project itself; nothing else imports this room."""
