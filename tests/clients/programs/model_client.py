# Two SDKs as they are installed, with what the environment gives them, and not one try more: each asks for an answer
# and for a stream, and, while that is on, for the models.
import anthropic, openai

ASK = {"model": "rig", "messages": [{"role": "user", "content": "hello"}]}
one = anthropic.Anthropic(max_retries=0)
other = openai.OpenAI(max_retries=0)

print("anthropic", one.messages.create(max_tokens=9, **ASK).content[0].text)
with one.messages.stream(max_tokens=9, **ASK) as stream:
    for text in stream.text_stream:
        print("anthropic streams", text, [model.id for model in one.models.list()])
    print("anthropic ends", stream.get_final_message().stop_reason)

print("openai", other.chat.completions.create(**ASK).choices[0].message.content)
for chunk in other.chat.completions.create(stream=True, **ASK):
    choice = chunk.choices[0]
    print("openai", choice.finish_reason or f"streams {choice.delta.content} {[it.id for it in other.models.list()]}")
try:
    anthropic.Anthropic(api_key="sk-mine", max_retries=0).messages.create(max_tokens=9, **ASK)
except anthropic.AuthenticationError as error:
    print("another key", error.status_code)
