"""aiosmtplib over kept connections.

Arguments: the folder of its package, port, connections, messages, octets of the body, and `made` (a message of its own for each
recipient, as the library is meant to be used) or `ready` (the same octets again and again). Prints `seconds N`, from the first
message to the last reply.
"""
import asyncio
import sys
import time
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

folder, port, connections, messages, octets = sys.argv[1], *map(int, sys.argv[2:6])
is_made = sys.argv[6] == "made"
sys.path.insert(0, folder)
import aiosmtplib  # noqa: E402

LINE = "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n"
TEXT = LINE * (octets // len(LINE))
READY = ("From: a@acme.example\r\nTo: user@x1.example\r\nSubject: Hello\r\n\r\n" + TEXT.replace("\n", "\r\n")).encode()
left = messages


def made(number):
    message = EmailMessage()
    message["From"] = "a@acme.example"
    message["To"] = f"User {number} <user{number}@x{number % 50}.example>"
    message["Subject"] = "Hello"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="acme.example")
    message.set_content(TEXT)
    return message


async def sender(client):
    global left
    while left > 0:
        left -= 1
        if is_made:
            await client.send_message(made(left))
        else:
            await client.sendmail("a@acme.example", ["user@x1.example"], READY)


async def main():
    clients = [aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, use_tls=False) for _ in range(connections)]
    for client in clients:
        await client.connect()
    start = time.perf_counter()
    await asyncio.gather(*(sender(client) for client in clients))
    print("seconds", time.perf_counter() - start)
    for client in clients:
        await client.quit()


asyncio.run(main())
